//! Owns what is damaged, and how: requests that Kafka's own classes wrote, and a generator that says what goes wrong with them.

use std::io::Read;

use coati::protocol::header::write_request_header;
use coati::protocol::messages::APIS;
use coati::protocol::{RequestHeader, Str, Writer};

/// SplitMix64: the same seed, the same damage, on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// What goes wrong with data: bits, lengths, cuts, repeats, and parts of other data.
pub fn damage(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if data.is_empty() {
            data.push(random.next() as u8);
        }
        let place = random.below(data.len());
        match random.below(9) {
            0 => data[place] ^= 1 << random.below(8),
            1 => data[place] = random.next() as u8,
            2 => data.truncate(place),
            3 => overwrite(
                data,
                place,
                &EXTREMES[random.below(EXTREMES.len())].to_be_bytes(),
            ),
            4 => overwrite(data, place, &(random.below(300) as i32 - 100).to_be_bytes()),
            5 => overwrite(data, place, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            6 => {
                let end = (place + random.below(64)).min(data.len());
                data.extend_from_within(place..end);
            }
            7 => {
                let end = (place + random.below(16)).min(data.len());
                data.drain(place..end);
            }
            _ => {
                let from = random.below(other.len().max(1)).min(other.len());
                data.truncate(place);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
}

const EXTREMES: [i32; 8] = [i32::MAX, i32::MIN, -1, -2, 0, 1, 0x00ff_ffff, 0x7fff_0000];

fn overwrite(data: &mut [u8], place: usize, bytes: &[u8]) {
    for (old, new) in data[place..].iter_mut().zip(bytes) {
        *old = *new;
    }
}

/// Lines `name version variant bytes`, written by Kafka's own classes.
pub fn corpus() -> Vec<(String, i16, Vec<u8>)> {
    let compressed = include_bytes!("../compat/corpus/corpus.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed[..])
        .read_to_string(&mut text)
        .expect("a gzip of text");
    text.lines().filter_map(corpus_line).collect()
}

fn corpus_line(line: &str) -> Option<(String, i16, Vec<u8>)> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.parse().ok()?);
    let bytes = words.nth(1).unwrap_or("");
    let digit = |letter: u8| char::from(letter).to_digit(16).expect("hexadecimal") as u8;
    let bytes = bytes
        .as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect();
    Some((name.trim_end_matches("Data").to_owned(), version, bytes))
}

/// The requests of the corpus with their headers, without their lengths.
pub fn request_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (name, version, body) in corpus() {
        let api = name.strip_suffix("Request");
        let Some(api) = api.and_then(|name| APIS.iter().find(|api| api.1 == name)) else {
            continue;
        };
        let mut writer = Writer::new();
        let header = RequestHeader {
            api_key: api.0,
            api_version: version,
            correlation_id: 7,
            client_id: Some(Str::from("test")),
        };
        write_request_header(&mut writer, &header).expect("a header");
        frames.push([&writer.into_bytes()[..], &body].concat());
    }
    frames
}
