//! Owns the text of systemd units: one for the broker with the limits it needs, one that applies tuners before it starts.

use std::path::Path;

/// What units are written for.
#[derive(Debug)]
pub struct Unit<'a> {
    pub program: &'a Path,
    pub user: &'a str,
    pub data_dir: &'a Path,
    pub cores: Option<usize>,
    /// Tuners to apply; all that warn, when none is named.
    pub tuners: &'a [&'a str],
}

pub const UNIT_PATH: &str = "/etc/systemd/system/coati.service";
pub const DROP_IN_PATH: &str = "/etc/systemd/system/coati.service.d/tune.conf";

/// systemd makes this below /var/lib and gives it to the user; the folder above it stays root's.
const STATE_FOLDER: &str = "/var/lib/";

impl Unit<'_> {
    /// `coati.service`.
    pub fn service(&self) -> String {
        let start = self.command(&["start"]);
        let folder = match self.data_dir.strip_prefix(STATE_FOLDER) {
            Ok(folder) => format!("StateDirectory={}\n", word(&folder.to_string_lossy())),
            Err(_) => String::new(),
        };
        format!(
            "# {UNIT_PATH}\n\
             [Unit]\n\
             Description=Coati, a Kafka-compatible event-streaming broker\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             \n\
             [Service]\n\
             # The broker says when it serves, and that it is stopping.\n\
             Type=notify\n\
             User={user}\n\
             {folder}\
             ExecStart={start}\n\
             # A descriptor for each connection and several for each partition; the broker raises its soft limit to this.\n\
             LimitNOFILE=infinity\n\
             # Memory that io_uring shares with the kernel.\n\
             LimitMEMLOCK=infinity\n\
             # After a crash the logs are recovered before it serves.\n\
             TimeoutStartSec=infinity\n\
             # Clients have 10 s to take their last answers, then every log is closed.\n\
             TimeoutStopSec=180\n\
             Restart=on-failure\n\
             RestartSec=1\n\
             NoNewPrivileges=yes\n\
             ProtectSystem=full\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            user = self.user,
        )
    }

    /// What /proc and /sys are told is forgotten at a restart of the machine; this tells them before the broker starts.
    pub fn drop_in(&self) -> String {
        let mut words = vec!["tune", "apply"];
        words.extend(self.tuners);
        let apply = self.command(&words);
        format!(
            "# {DROP_IN_PATH}\n\
             [Service]\n\
             # As root (+), and the broker starts even if an entry cannot be written (-).\n\
             ExecStartPre=-+{apply}\n"
        )
    }

    fn command(&self, words: &[&str]) -> String {
        let mut line = word(&self.program.to_string_lossy());
        for text in words {
            line.push(' ');
            line.push_str(&word(text));
        }
        line.push_str(&format!(
            " --data-dir {}",
            word(&self.data_dir.to_string_lossy())
        ));
        if let Some(cores) = self.cores {
            line.push_str(&format!(" --cores {cores}"));
        }
        line
    }
}

/// As systemd.syntax(7) and systemd.service(5) want it: quoted where need be, nothing in it expanded.
fn word(text: &str) -> String {
    let mut quoted = String::new();
    for char in text.chars() {
        match char {
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str("$$"),
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ => quoted.push(char),
        }
    }
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+:@,=%$".contains(char);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => quoted,
        false => format!("\"{quoted}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit<'a>(data_dir: &'a str, tuners: &'a [&'a str]) -> Unit<'a> {
        Unit {
            program: Path::new("/usr/bin/coati"),
            user: "coati",
            data_dir: Path::new(data_dir),
            cores: Some(4),
            tuners,
        }
    }

    #[test]
    fn the_broker_has_its_limits_and_says_when_it_serves() {
        let text = unit("/var/lib/coati/data", &[]).service();
        for line in [
            "Type=notify",
            "LimitNOFILE=infinity",
            "LimitMEMLOCK=infinity",
            "User=coati",
            "StateDirectory=coati/data",
            "ExecStart=/usr/bin/coati start --data-dir /var/lib/coati/data --cores 4",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} in\n{text}");
        }
        assert!(!unit("/data", &[]).service().contains("StateDirectory"));
    }

    #[test]
    fn tuners_are_applied_before_it_starts() {
        let text = unit("/srv/my data", &["swappiness", "damon"]).drop_in();
        let line = "ExecStartPre=-+/usr/bin/coati tune apply swappiness damon --data-dir \"/srv/my data\" --cores 4";
        assert!(text.lines().any(|of| of == line), "{text}");
    }

    #[test]
    fn nothing_in_a_path_is_expanded() {
        assert_eq!(word("/a/100%/$x"), "/a/100%%/$$x");
        assert_eq!(word("a\"b\\c"), "\"a\\\"b\\\\c\"");
        assert_eq!(word(""), "\"\"");
    }
}
