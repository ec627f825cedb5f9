//! Owns how large the values of records are: all alike, anything between two bounds, or as a file tells.

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::client::Outcome;
use crate::random::Random;

/// What is asked for: `1000`, `100..2000` (both included, all equally likely), or `@FILE` with a size a line and, behind
/// it, how often that is meant to come compared with the others (once, when it says nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    Fixed(usize),
    Uniform { least: usize, most: usize },
    File(PathBuf),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let bytes = |text: &str| text.trim().parse::<usize>().ok();
        let size = match (text.strip_prefix('@'), text.split_once("..")) {
            (Some(path), _) if !path.is_empty() => Some(Size::File(path.into())),
            (None, Some((least, most))) => bytes(least)
                .zip(bytes(most))
                .filter(|(least, most)| least <= most)
                .map(|(least, most)| Size::Uniform { least, most }),
            (None, None) => bytes(text).map(Size::Fixed),
            _ => None,
        };
        size.ok_or_else(|| "a size is BYTES, LEAST..MOST or @FILE".into())
    }
}

/// As it is typed.
impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Fixed(bytes) => write!(out, "{bytes}"),
            Size::Uniform { least, most } => write!(out, "{least}..{most}"),
            Size::File(path) => write!(out, "@{}", path.display()),
        }
    }
}

/// A fixed size is a number, as in OpenMessaging Benchmark's files.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Size::Fixed(bytes) => serializer.serialize_u64(*bytes as u64),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(usize),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Size::Fixed(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl Size {
    /// A file is found beside the workload that names it.
    pub fn found_in(self, folder: &Path) -> Size {
        match self {
            Size::File(path) => Size::File(folder.join(path)),
            other => other,
        }
    }
}

/// Sizes of a run, none below a least one.
#[derive(Clone, Debug)]
pub struct Sizes {
    floor: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(usize),
    Uniform {
        least: usize,
        most: usize,
    },
    /// Bytes, and the weight of this one and all before it; weights rise.
    Listed(Rc<[(usize, f64)]>),
}

impl Sizes {
    pub fn load(size: &Size, floor: usize) -> Outcome<Sizes> {
        let kind = match size {
            Size::Fixed(bytes) => Kind::Fixed(*bytes),
            Size::Uniform { least, most } => Kind::Uniform {
                least: *least,
                most: *most,
            },
            Size::File(path) => {
                let told = |error: String| format!("{}: {error}", path.display());
                let text =
                    std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
                Kind::Listed(listed(&text).map_err(told)?.into())
            }
        };
        Ok(Sizes { floor, kind })
    }

    pub fn is_fixed(&self) -> bool {
        matches!(self.kind, Kind::Fixed(_))
    }

    pub fn most(&self) -> usize {
        let most = match &self.kind {
            Kind::Fixed(bytes) => *bytes,
            Kind::Uniform { most, .. } => *most,
            Kind::Listed(list) => list.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
        };
        most.max(self.floor)
    }

    pub fn choose(&self, random: &mut Random) -> usize {
        let bytes = match &self.kind {
            Kind::Fixed(bytes) => *bytes,
            Kind::Uniform { least, most } => {
                least + (random.next_fraction() * (most - least + 1) as f64) as usize
            }
            Kind::Listed(list) => {
                let point = random.next_fraction() * list[list.len() - 1].1;
                list[list.partition_point(|(_, upto)| *upto <= point)].0
            }
        };
        bytes.max(self.floor)
    }
}

fn listed(text: &str) -> Outcome<Vec<(usize, f64)>> {
    let mut list = Vec::new();
    let mut sum = 0.0;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(bytes) = words.next() else {
            continue;
        };
        let weight = words.next().map_or(Ok(1.0), str::parse::<f64>);
        let weight = weight
            .ok()
            .filter(|weight| weight.is_finite() && *weight > 0.0);
        let entry = bytes
            .parse()
            .ok()
            .zip(weight)
            .filter(|_| words.next().is_none());
        let (bytes, weight) = entry
            .ok_or_else(|| format!("line {}: a size, or a size and its weight", number + 1))?;
        sum += weight;
        list.push((bytes, sum));
    }
    if list.is_empty() {
        return Err("no size in it".into());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sizes: &Sizes) -> Vec<usize> {
        let mut random = Random::new(1);
        (0..100_000).map(|_| sizes.choose(&mut random)).collect()
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for text in ["1000", "100..2000", "7..7", "@sizes.txt"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for wrong in ["", "-1", "2..1", "..", "1..", "@", "many"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn uniform_sizes_have_both_bounds_and_their_middle() {
        let size = Size::Uniform {
            least: 100,
            most: 199,
        };
        let sizes = Sizes::load(&size, 0).unwrap();
        let drawn = drawn(&sizes);
        assert_eq!(drawn.iter().min(), Some(&100));
        assert_eq!(drawn.iter().max(), Some(&199));
        let mean = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
        assert!((148.5..150.5).contains(&mean), "{mean}");
        assert_eq!(sizes.most(), 199);
        // Whoever needs room for a head gets it.
        let floored = Sizes::load(&size, 150).unwrap();
        assert_eq!(self::drawn(&floored).iter().min(), Some(&150));
    }

    #[test]
    fn a_file_tells_sizes_and_how_often_they_come() {
        let list = listed("# events\n100 3\n\n2000 # a rare one\n").unwrap();
        let sizes = Sizes {
            floor: 0,
            kind: Kind::Listed(list.into()),
        };
        let small = drawn(&sizes).iter().filter(|size| **size == 100).count();
        assert!((74_000..76_000).contains(&small), "{small}");
        assert_eq!(sizes.most(), 2000);
        for wrong in ["", "x", "1 0", "1 2 3", "-1"] {
            assert!(listed(wrong).is_err(), "{wrong}");
        }
    }
}
