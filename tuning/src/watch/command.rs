//! Owns `coati tune watch`: what people type, the plain text of one moment, and the terminal while it shows the view. Whoever
//! leaves, however, finds the terminal as it was.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clap::Args;
use coati_bench::{admin, clock};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType};

use super::draw;
use super::figures::Figures;
use super::tables::{self, List};
use super::view::{View, Wish};

const EVERY: Duration = Duration::from_secs(1);

/// How long the broker may take for its answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks at whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

const SIGNALS: [i32; 3] = [
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGHUP,
];

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Address of the broker's admin endpoint, which its log tells
    #[arg(long, value_name = "HOST:PORT", default_value = admin::DEFAULT_ADDRESS)]
    admin: String,

    /// Only partitions, clients and groups that have this in their name, whatever the case
    #[arg(long, value_name = "TEXT", default_value = "")]
    find: String,

    /// Print the last second as plain text, and end; needs no terminal
    #[arg(long)]
    once: bool,

    /// With --once: print it as JSON, for programs
    #[arg(long, requires = "once")]
    json: bool,
}

/// Why nothing can be watched, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(
        "no figures from http://{address}/debug/watch: {reason}; --admin names the admin endpoint of the broker, which its log tells"
    )]
    NoAnswer { address: String, reason: String },
    #[error("this is no terminal; --once prints the figures of one moment")]
    NoTerminal,
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// How it came to its end.
#[derive(Debug)]
pub enum Seen {
    /// What is to be printed; nothing when it has been shown.
    Text(String),
    /// By a signal.
    Interrupted,
}

impl WatchArgs {
    pub fn run(self) -> Result<Seen, WatchError> {
        let view = View::new(&self.admin, &self.find);
        if self.once {
            let text = get(&self.admin, &view.path());
            let (text, figures) = text.map_err(|reason| WatchError::NoAnswer {
                address: self.admin,
                reason,
            })?;
            return Ok(Seen::Text(match self.json {
                true => text + "\n",
                false => plain(&figures),
            }));
        }
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(WatchError::NoTerminal);
        }
        show(view)
    }
}

/// The page as it came, and what it says.
fn get(address: &str, path: &str) -> Result<(String, Figures), String> {
    let text = admin::get_blocking(address, path, PATIENCE)?;
    let figures = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok((text, figures))
}

fn plain(figures: &Figures) -> String {
    let mut text = tables::cores(figures).to_string();
    for core in &figures.cores {
        writeln!(text, "{}", draw::parts_of(figures, core)).expect("a string takes all");
    }
    for list in List::ALL {
        let table = list.table(figures);
        if table.rows.is_empty() {
            continue;
        }
        let shown = table.rows.len();
        let told = match list.told(figures) {
            Some((all, found)) => format!(": {shown} shown, {found} found of {all}"),
            None => String::new(),
        };
        write!(text, "\n{}{told}\n{table}", list.title()).expect("a string takes all");
    }
    text
}

/// Gives the terminal back, also where somebody panics: then before the panic is told.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn show(view: View) -> Result<Seen, WatchError> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let (wishes, wished) = mpsc::channel();
    let (answers, answered) = mpsc::channel();
    let (address, path) = (view.address.clone(), view.path());
    // It ends when nobody wishes any more, and is not waited for.
    std::thread::spawn(move || ask(&address, path, &wished, &answers));
    let screen = Screen;
    let mut terminal = ratatui::try_init()?;
    // Not every terminal has a screen aside.
    execute!(io::stdout(), Clear(ClearType::All))?;
    let seen = watch(&mut terminal, view, &wishes, &answered, &ended);
    drop(screen);
    seen
}

/// Asks each second, and whenever something else is wished.
fn ask(
    address: &str,
    mut path: String,
    wished: &Receiver<String>,
    answers: &Sender<Result<Figures, String>>,
) {
    loop {
        let due = clock::now() + EVERY;
        let answer = get(address, &path).map(|(_, figures)| figures);
        if answers.send(answer).is_err() {
            return;
        }
        match wished.recv_timeout(due.saturating_duration_since(clock::now())) {
            Ok(other) => path = wished.try_iter().last().unwrap_or(other),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    mut view: View,
    wishes: &Sender<String>,
    answered: &Receiver<Result<Figures, String>>,
    ended: &AtomicBool,
) -> Result<Seen, WatchError> {
    let mut last: Option<Instant> = None;
    let mut is_old = true;
    loop {
        for answer in answered.try_iter() {
            is_old = true;
            match answer {
                Ok(figures) => {
                    last = Some(clock::now());
                    view.on_answer(figures);
                }
                Err(reason) => {
                    let since = last.map(|last| clock::now() - last);
                    view.on_silence(reason, since.map(|since| since.as_secs_f64()));
                }
            }
        }
        if is_old {
            terminal.draw(|frame| draw::draw(frame, &view))?;
        }
        is_old = event::poll(LOOK)?;
        if is_old && let Event::Key(key) = event::read()? {
            match view.on_key(key) {
                Wish::Nothing => {}
                // Who asks has gone only where this goes, too.
                Wish::Ask => drop(wishes.send(view.path())),
                Wish::Quit => return Ok(Seen::Text(String::new())),
            }
        }
        if ended.load(Ordering::Relaxed) {
            return Ok(Seen::Interrupted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Core, Partition};
    use super::*;

    #[test]
    fn plain_text_has_a_table_of_each_list_that_has_rows() {
        let mut figures = Figures {
            parts: vec![("receive".into(), "x".into()), ("log".into(), "y".into())],
            cores: vec![Core {
                utilisation: 0.3,
                parts: vec![0.2, 0.1],
                ..Core::default()
            }],
            ..Figures::default()
        };
        figures.partitions.all = 7;
        figures.partitions.found = 1;
        figures.partitions.lines = vec![Partition {
            topic: "t\u{1b}".into(),
            bytes_in: 1_000_000,
            ..Partition::default()
        }];
        let text = plain(&figures);
        assert!(text.contains("core 0: receive 20 %, log 10 %"), "{text}");
        assert!(
            text.contains("Partitions: 1 shown, 1 found of 7\n"),
            "{text}"
        );
        let row = text.lines().find(|line| line.starts_with("t\u{fffd}-0"));
        assert!(row.is_some_and(|row| row.contains("1.00")), "{text}");
        assert!(!text.contains("Groups") && !text.contains('\u{1b}'));
    }

    #[test]
    fn figures_of_another_version_are_read_as_far_as_they_are_known() {
        let page = r#"{"broker":3,"new":{"x":1},"cores":[{"core":1,"utilisation":0.5}]}"#;
        let figures: Figures = serde_json::from_str(page).unwrap();
        assert_eq!((figures.broker, figures.cores[0].utilisation), (3, 0.5));
        assert!(figures.groups.lines.is_empty());
        assert!(plain(&figures).contains("50 %"));
    }
}
