//! Owns what the view shows of the figures, and what keys change of that. Pure: answers come in, keys come in.

use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::figures::Figures;
use super::tables::List;
use super::words::encoded;

/// Seconds of each core's past that are kept.
const PAST: usize = 240;

/// The broker tells no more lines at a time.
const LINES: usize = 200;

const FIND_CHARS_MAX: usize = 200;

/// What partitions are told first, as the endpoint knows it and as people do.
const ORDERS: [(&str, &str); 4] = [
    ("busy", "MB/s"),
    ("in", "MB/s in"),
    ("out", "MB/s out"),
    ("size", "size"),
];

/// What a key asks for beyond another picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    Nothing,
    /// The broker is asked something else than before.
    Ask,
    Quit,
}

#[derive(Debug)]
pub struct View {
    pub address: String,
    pub figures: Option<Figures>,
    /// Why the last question had no answer, and how long ago the last answer was.
    pub silence: Option<(String, Option<f64>)>,
    pub list: List,
    /// Rows of the list above the first that is shown.
    pub scroll: usize,
    /// Likewise of the cores.
    pub cores_scroll: usize,
    pub find: String,
    pub is_typing: bool,
    /// Utilisation of each core, in thousandths, the latest behind.
    pub past: BTreeMap<usize, VecDeque<u64>>,
    order: usize,
}

impl View {
    pub fn new(address: &str, find: &str) -> View {
        View {
            address: address.to_owned(),
            figures: None,
            silence: None,
            list: List::Partitions,
            scroll: 0,
            cores_scroll: 0,
            find: find.to_owned(),
            is_typing: false,
            past: BTreeMap::new(),
            order: 0,
        }
    }

    /// What the broker is to be asked.
    pub fn path(&self) -> String {
        path(&self.find, ORDERS[self.order].0)
    }

    pub fn order_name(&self) -> &'static str {
        ORDERS[self.order].1
    }

    pub fn on_answer(&mut self, figures: Figures) {
        let is_same_run = self
            .figures
            .as_ref()
            .is_some_and(|last| last.incarnation == figures.incarnation);
        if !is_same_run {
            // What was before is not the past of this run.
            self.past.clear();
        }
        for core in &figures.cores {
            let past = self.past.entry(core.core).or_default();
            past.push_back((core.utilisation * 1000.0) as u64);
            if past.len() > PAST {
                past.pop_front();
            }
        }
        self.silence = None;
        self.figures = Some(figures);
        self.keep_within();
    }

    pub fn on_silence(&mut self, reason: String, seconds: Option<f64>) {
        self.silence = Some((reason, seconds));
    }

    pub fn on_key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        let wish = match self.is_typing {
            true => self.on_typed(key.code),
            false => self.on_command(key.code),
        };
        self.keep_within();
        wish
    }

    fn on_typed(&mut self, key: KeyCode) -> Wish {
        match key {
            KeyCode::Enter => {
                self.is_typing = false;
                return Wish::Nothing;
            }
            KeyCode::Esc => {
                self.is_typing = false;
                self.find.clear();
            }
            KeyCode::Backspace => {
                self.find.pop();
            }
            KeyCode::Char(sign) if self.find.chars().count() < FIND_CHARS_MAX => {
                self.find.push(sign);
            }
            _ => return Wish::Nothing,
        }
        self.scroll = 0;
        Wish::Ask
    }

    fn on_command(&mut self, key: KeyCode) -> Wish {
        let page = 10;
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s') => {
                self.order = (self.order + 1) % ORDERS.len();
                self.list = List::Partitions;
                self.scroll = 0;
                return Wish::Ask;
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(List::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='7') => {
                self.list = List::ALL[digit as usize - '1' as usize];
                self.scroll = 0;
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll += page,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => self.scroll = 0,
            KeyCode::End | KeyCode::Char('G') => self.scroll = usize::MAX,
            KeyCode::Char(']') => self.cores_scroll += 1,
            KeyCode::Char('[') => self.cores_scroll = self.cores_scroll.saturating_sub(1),
            _ => {}
        }
        Wish::Nothing
    }

    fn turn(&mut self, by: usize) {
        let place = List::ALL.iter().position(|list| *list == self.list);
        self.list = List::ALL[(place.unwrap_or(0) + by) % List::ALL.len()];
        self.scroll = 0;
    }

    /// Nobody scrolls beyond the last row.
    fn keep_within(&mut self) {
        let (rows, cores) = match &self.figures {
            Some(figures) => (self.list.table(figures).rows.len(), figures.cores.len()),
            None => (0, 0),
        };
        self.scroll = self.scroll.min(rows.saturating_sub(1));
        self.cores_scroll = self.cores_scroll.min(cores.saturating_sub(1));
    }
}

/// Where the endpoint tells the figures.
pub fn path(find: &str, order: &str) -> String {
    format!(
        "/debug/watch?lines={LINES}&sort={order}&find={}",
        encoded(find)
    )
}
