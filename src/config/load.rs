//! Turns what a person wrote (a TOML file or Kafka's `server.properties`, `-o key=value`, the
//! shorthands of `coati start`) into the settings of one broker, and says what they should know.

use super::{BrokerConfig, ConfigError, Settings, definitions, properties};

/// The text of a configuration file; who read it decides by its name which format it has.
#[derive(Clone, Debug)]
pub enum ConfigFile {
    Toml(String),
    Properties(String),
}

impl ConfigFile {
    /// Kafka's files end in `.properties`; everything else is TOML.
    pub fn from_named(file_name: &str, text: String) -> ConfigFile {
        if file_name.ends_with(".properties") {
            ConfigFile::Properties(text)
        } else {
            ConfigFile::Toml(text)
        }
    }
}

/// Everything that may say something, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<ConfigFile>,
    /// `--data-dir`
    pub data_dir: Option<String>,
    /// `--listen host:port` or `NAME://host:port`
    pub listen: Option<String>,
    /// `--cores`
    pub cores: Option<usize>,
    /// `--admin`
    pub admin: Option<String>,
    /// `-o key=value`, in order; a later one wins.
    pub overrides: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: BrokerConfig,
    /// Sentences for the log: keys that are unknown or have no effect here.
    pub notices: Vec<String>,
}

/// What a broker is without any configuration. Unlike the defaults of Kafka's table these are
/// chosen so that `coati start` works and harms nobody.
const UNCONFIGURED: [(&str, &str); 5] = [
    ("controller.listener.names", "CONTROLLER"),
    ("listeners", "PLAINTEXT://127.0.0.1:9092"),
    ("log.dirs", "./coati-data"),
    ("node.id", "1"),
    ("process.roles", "broker,controller"),
];

pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut given = Settings::new();
    let mut notices = Vec::new();
    match &sources.file {
        Some(ConfigFile::Toml(text)) => {
            for (name, value) in from_toml(text)? {
                known(&name)?;
                if given.insert(name.clone(), value).is_some() {
                    return Err(ConfigError::Syntax(format!(
                        "setting '{name}' is given twice"
                    )));
                }
            }
        }
        Some(ConfigFile::Properties(text)) => {
            given.extend(properties::parse(text).map_err(ConfigError::Syntax)?);
            set_aside_unknown(&mut given, &mut notices);
        }
        None => {}
    }
    if let Some(folder) = &sources.data_dir {
        given.insert("log.dirs".into(), folder.clone());
    }
    if let Some(address) = &sources.listen {
        given.insert("listeners".into(), with_name(address));
    }
    if let Some(cores) = sources.cores {
        given.insert("cores".into(), cores.to_string());
    }
    if let Some(address) = &sources.admin {
        given.insert("admin.listener".into(), address.clone());
    }
    for text in &sources.overrides {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| ConfigError::Syntax(format!("'{text}' is not of the form key=value")))?;
        known(name.trim())?;
        given.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    notices.extend(without_effect(&given));
    for (name, value) in UNCONFIGURED {
        let older = match name {
            "node.id" => "broker.id",
            "log.dirs" => "log.dir",
            other => other,
        };
        if !given.contains_key(older) {
            given.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    // The older name tells the same, as in Kafka.
    if let Some(id) = given.get("node.id").cloned() {
        given.insert("broker.id".into(), id);
    }
    let config = BrokerConfig::from_settings(given)?;
    Ok(Loaded { config, notices })
}

fn with_name(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("PLAINTEXT://{address}")
    }
}

/// Settings of one listener carry its name in front; none has an effect yet.
fn is_listener_setting(name: &str) -> bool {
    name.starts_with("listener.name.")
}

fn known(name: &str) -> Result<(), ConfigError> {
    if definitions::broker().contains_key(name) || is_listener_setting(name) {
        return Ok(());
    }
    Err(ConfigError::Unknown {
        name: name.to_owned(),
        nearest: definitions::nearest(name, definitions::broker()),
    })
}

/// People's files carry keys of versions long gone; Kafka ignores them with a warning.
fn set_aside_unknown(given: &mut Settings, notices: &mut Vec<String>) {
    let unknown: Vec<String> = given
        .keys()
        .filter(|name| known(name).is_err())
        .cloned()
        .collect();
    if unknown.is_empty() {
        return;
    }
    for name in &unknown {
        given.remove(name);
    }
    notices.push(format!(
        "these settings are not known and are ignored: {}",
        unknown.join(", ")
    ));
}

fn without_effect(given: &Settings) -> Option<String> {
    let idle: Vec<&str> = given
        .keys()
        .map(String::as_str)
        .filter(|name| {
            !definitions::broker()
                .get(name)
                .is_some_and(|d| d.has_effect())
        })
        .collect();
    (!idle.is_empty()).then(|| {
        format!(
            "these Kafka settings are accepted but have no effect here: {}",
            idle.join(", ")
        )
    })
}

fn from_toml(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax(error.to_string()))?;
    let mut flat = Vec::new();
    for (key, value) in &table {
        flatten(key, value, &mut flat)?;
    }
    Ok(flat)
}

fn flatten(
    name: &str,
    value: &toml::Value,
    flat: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    if let toml::Value::Table(table) = value {
        for (key, value) in table {
            flatten(&format!("{name}.{key}"), value, flat)?;
        }
        return Ok(());
    }
    let text = match value {
        toml::Value::Array(items) => items
            .iter()
            .map(|item| scalar(name, item))
            .collect::<Result<Vec<_>, _>>()?
            .join(","),
        other => scalar(name, other)?,
    };
    flat.push((name.to_owned(), text));
    Ok(())
}

fn scalar(name: &str, value: &toml::Value) -> Result<String, ConfigError> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(ConfigError::Syntax(format!(
                "setting '{name}' takes text, a number, true or false"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Sources {
        Sources {
            file: Some(ConfigFile::Toml(text.into())),
            ..Sources::default()
        }
    }

    fn properties(text: &str) -> Sources {
        Sources {
            file: Some(ConfigFile::Properties(text.into())),
            ..Sources::default()
        }
    }

    #[test]
    fn without_configuration_it_is_a_local_broker() {
        let loaded = load(&Sources::default()).unwrap();
        let config = loaded.config;
        assert_eq!(config.node_id.0, 1);
        assert_eq!(config.data_dir.to_str(), Some("./coati-data"));
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(
            (config.listeners[0].host.as_str(), config.listeners[0].port),
            ("127.0.0.1", 9092)
        );
        assert!(loaded.notices.is_empty());
    }

    #[test]
    fn toml_takes_tables_and_dotted_keys() {
        let loaded = load(&toml(
            "num.partitions = 3\n\"log.segment.bytes\" = 2097152\n[log.retention]\nms = 7\n",
        ))
        .unwrap();
        assert_eq!(loaded.config.num_partitions, 3);
        assert_eq!(loaded.config.given["log.segment.bytes"], "2097152");
        assert_eq!(loaded.config.static_topic_config().retention_ms, 7);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_in_toml_and_overrides() {
        let error = load(&toml("num.partition = 3")).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown setting 'num.partition'; did you mean 'num.partitions'?"
        );
        let overridden = Sources {
            overrides: vec!["log.retentoin.ms=1".into()],
            ..Sources::default()
        };
        let error = load(&overridden).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown setting 'log.retentoin.ms'; did you mean 'log.retention.ms'?"
        );
    }

    #[test]
    fn properties_warn_once_of_unknown_keys_and_say_what_has_no_effect() {
        let loaded = load(&properties(
            "zookeeper.connect=localhost:2181\nlog.message.format.version=2.0\nnum.io.threads=8\n\
             broker.id=7\nlisteners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n",
        ))
        .unwrap();
        assert_eq!(
            loaded.notices,
            vec![
                "these settings are not known and are ignored: log.message.format.version, zookeeper.connect",
                "these Kafka settings are accepted but have no effect here: num.io.threads",
            ]
        );
        assert_eq!(loaded.config.node_id.0, 7);
        assert_eq!(loaded.config.listeners.len(), 1);
    }

    #[test]
    fn later_and_nearer_words_win() {
        let sources = Sources {
            file: Some(ConfigFile::Toml(
                "num.partitions = 3\n[log]\ndirs = [\"a\"]".into(),
            )),
            data_dir: Some("b".into()),
            listen: Some("0.0.0.0:1234".into()),
            cores: Some(2),
            admin: Some("off".into()),
            overrides: vec!["num.partitions=4".into(), "num.partitions = 5".into()],
        };
        let config = load(&sources).unwrap().config;
        assert_eq!(config.num_partitions, 5);
        assert_eq!(config.data_dir.to_str(), Some("b"));
        assert_eq!(config.listeners[0].port, 1234);
        assert_eq!(config.cores, Some(2));
        assert_eq!(config.admin, None);
    }

    #[test]
    fn retention_takes_the_finest_unit() {
        let ms = |text: &str| {
            load(&properties(text))
                .unwrap()
                .config
                .static_topic_config()
                .retention_ms
        };
        assert_eq!(ms("log.retention.hours=1"), 3_600_000);
        assert_eq!(
            ms("log.retention.hours=1\nlog.retention.minutes=2"),
            120_000
        );
        assert_eq!(ms("log.retention.minutes=2\nlog.retention.ms=3"), 3);
        assert_eq!(ms("log.retention.hours=-1"), -1);
    }

    #[test]
    fn bad_values_are_refused_in_kafkas_words() {
        let error = load(&properties("num.partitions=0"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "Invalid value 0 for configuration num.partitions: Value must be at least 1"
        );
        assert!(load(&properties("listeners=PLAINTEXT//x")).is_err());
        assert!(load(&properties("listeners=SSL://:9092")).is_err());
        assert!(load(&properties("log.dirs=a,b")).is_err());
        assert!(load(&toml("a = [")).is_err());
    }
}
