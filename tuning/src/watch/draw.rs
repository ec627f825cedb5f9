//! Owns the picture of the view in a terminal of any size. It decides nothing, and asks nobody.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::figures::{Core, Figures};
use super::tables::{self, List, Table};
use super::view::View;
use super::words::{duration, megabytes, name, percent, size};

/// Of the parts of a core's work, in their order.
const COLOURS: [Color; 9] = [
    Color::Blue,
    Color::LightBlue,
    Color::Magenta,
    Color::Yellow,
    Color::Gray,
    Color::Green,
    Color::LightMagenta,
    Color::LightYellow,
    Color::DarkGray,
];

const GAP: usize = 2;
const BAR_LEAST: usize = 10;
const BAR_MOST: usize = 40;
const PAST: usize = 30;
const PAST_STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const KEYS: &str =
    " q quit  Tab or 1-7 list  s sort  / find  ↑↓ PgUp PgDn Home End scroll  [ ] cores";

pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let cores = view.figures.as_ref().map_or(0, |page| page.cores.len());
    let most = (frame.area().height / 2).saturating_sub(4).max(1);
    let cores = u16::try_from(cores).unwrap_or(most).min(most);
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(cores + 1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [head, core_rows, legend, tabs, list, foot] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(view)), head);
    frame.render_widget(foot_line(view), foot);
    let Some(figures) = &view.figures else { return };
    draw_cores(frame, core_rows, view, figures);
    frame.render_widget(legend_line(figures), legend);
    frame.render_widget(tabs_line(view, figures), tabs);
    draw_list(frame, list, view, figures);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn head_lines(view: &View) -> Vec<Line<'static>> {
    let mut first = vec![Span::styled("coati", bold())];
    let mut second = Line::default();
    if let Some(figures) = &view.figures {
        first.push(Span::raw(format!(
            " broker {}  {}  version {}  up {}  {} resident  {}",
            figures.broker,
            name(&figures.state),
            name(&figures.version),
            duration(figures.uptime_seconds),
            size(figures.resident_bytes),
            name(&view.address),
        )));
        second = totals(figures);
    }
    match &view.silence {
        None if view.figures.is_none() => second = Line::raw(format!("asking {}", view.address)),
        None => {}
        Some((reason, since)) => {
            let since = since.map_or(String::new(), |seconds| {
                format!(" for {}; what is shown is as old", duration(seconds))
            });
            let said = format!("the broker does not answer{since}: {}", name(reason));
            second = Line::styled(said, alarm());
        }
    }
    vec![Line::from(first), second]
}

fn totals(figures: &Figures) -> Line<'static> {
    let sum = |of: fn(&Core) -> f64| figures.cores.iter().map(of).sum::<f64>();
    let stalls: u64 = figures.cores.iter().map(|core| core.stalls).sum();
    let offline: usize = figures.cores.iter().map(|core| core.offline).sum();
    let mut spans = vec![Span::raw(format!(
        "in {} MB/s  out {} MB/s  {:.0} records/s in  {:.0} requests/s  ",
        megabytes(sum(|core| core.bytes_in)),
        megabytes(sum(|core| core.bytes_out)),
        sum(|core| core.records_in),
        sum(|core| core.requests),
    ))];
    let look = if stalls > 0 { alarm() } else { Style::new() };
    spans.push(Span::styled(format!("{stalls} stalls"), look));
    if offline > 0 {
        spans.push(Span::styled(format!("  {offline} offline"), alarm()));
    }
    Line::from(spans)
}

/// A row a core: its figures as far as there is room, then what it was used for.
fn draw_cores(frame: &mut Frame<'_>, area: Rect, view: &View, figures: &Figures) {
    let table = tables::cores(figures);
    let widths = table.widths();
    let width = usize::from(area.width);
    let columns = fitting(&widths, width.saturating_sub(BAR_LEAST + GAP));
    let used: usize = widths[..columns].iter().map(|width| width + GAP).sum();
    let left = width.saturating_sub(used);
    let with_past = left >= BAR_LEAST + GAP + PAST;
    let bar = left.saturating_sub(if with_past { PAST + GAP } else { 0 });
    let bar = bar.min(BAR_MOST);
    let mut lines = vec![Line::styled(cells(&table.heads, &widths, columns), bold())];
    let rows = table.rows.iter().zip(&figures.cores);
    for (row, core) in rows.skip(view.cores_scroll) {
        let mut spans = vec![Span::raw(cells(row, &widths, columns))];
        spans.extend(bar_of(core, bar));
        if with_past {
            let past = view.past.get(&core.core);
            let from = past.map_or(0, |past| past.len().saturating_sub(PAST));
            let past = past.into_iter().flatten().skip(from);
            let steps = past.map(|share| PAST_STEPS[(*share as usize * 8 / 1001).min(7)]);
            spans.push(Span::raw(" ".repeat(GAP)));
            spans.push(Span::raw(steps.collect::<String>()));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// As many columns as there is room for; the first in any case.
fn fitting(widths: &[usize], room: usize) -> usize {
    let mut used = 0;
    let fit = widths.iter().take_while(|width| {
        used += **width + GAP;
        used <= room
    });
    fit.count().max(1)
}

fn cells(row: &[impl AsRef<str>], widths: &[usize], columns: usize) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).take(columns).enumerate() {
        let cell = cell.as_ref();
        match column {
            0 => line.push_str(&format!("{cell:<width$}")),
            _ => line.push_str(&format!("{cell:>width$}")),
        }
        line.push_str("  ");
    }
    line
}

/// So many columns for a whole core; each part ends where the sum up to it does, so that nothing is lost by rounding.
fn bar_of(core: &Core, width: usize) -> Vec<Span<'static>> {
    let (mut sum, mut drawn) = (0.0, 0);
    let mut spans = Vec::new();
    for (share, colour) in core.parts.iter().zip(COLOURS) {
        sum += share.max(0.0);
        let end = ((sum * width as f64).round() as usize).min(width);
        let part = "█".repeat(end.saturating_sub(drawn));
        spans.push(Span::styled(part, Style::new().fg(colour)));
        drawn = drawn.max(end);
    }
    spans.push(Span::styled("·".repeat(width - drawn), faint()));
    spans
}

fn legend_line(figures: &Figures) -> Line<'static> {
    let parts = figures.parts.iter().zip(COLOURS);
    let spans = parts.flat_map(|((part, _), colour)| {
        [
            Span::styled("█", Style::new().fg(colour)),
            Span::styled(format!(" {}  ", name(part)), faint()),
        ]
    });
    Line::from_iter(spans)
}

fn tabs_line(view: &View, figures: &Figures) -> Line<'static> {
    let tabs = List::ALL.iter().enumerate().flat_map(|(place, list)| {
        let count = list.told(figures);
        let count = count.map_or(String::new(), |(all, _)| format!(" {all}"));
        let look = match *list == view.list {
            true => bold().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        [
            Span::styled(format!(" {} {}{count} ", place + 1, list.title()), look),
            Span::raw(" "),
        ]
    });
    Line::from_iter(tabs)
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, view: &View, figures: &Figures) {
    let table: Table = view.list.table(figures);
    let mut widths = table.widths();
    let width = usize::from(area.width);
    // A long name leaves the figures their room.
    let others: usize = widths[1..].iter().map(|width| width + GAP).sum();
    widths[0] = widths[0].min(width.saturating_sub(others).max(16));
    let columns = fitting(&widths, width + GAP);
    let mut heads: Vec<String> = table.heads.iter().map(|head| (*head).to_owned()).collect();
    if view.list == List::Partitions {
        heads[0] = format!("partition (by {})", view.order_name());
        widths[0] = widths[0].max(heads[0].len());
    }
    let mut lines = vec![Line::styled(cells(&heads, &widths, columns), bold())];
    for row in table.rows.iter().skip(view.scroll) {
        let mut row = row.clone();
        row[0] = cut(&row[0], widths[0]);
        lines.push(Line::raw(cells(&row, &widths, columns)));
    }
    if table.rows.is_empty() {
        lines = vec![Line::styled("none", faint())];
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn cut(text: &str, chars: usize) -> String {
    match text.chars().count() <= chars {
        true => text.to_owned(),
        false => {
            let kept = text.chars().take(chars.saturating_sub(1));
            kept.chain(['…']).collect()
        }
    }
}

fn foot_line(view: &View) -> Line<'static> {
    if view.is_typing {
        return Line::styled(format!(" find: {}_", name_typed(&view.find)), bold());
    }
    match view.find.as_str() {
        "" => Line::styled(KEYS, faint()),
        find => Line::styled(format!(" only {}  {KEYS}", name(find)), faint()),
    }
}

fn name_typed(find: &str) -> String {
    match find {
        "" => String::new(),
        find => name(find),
    }
}

/// Of a core in one line of plain text.
pub fn parts_of(figures: &Figures, core: &Core) -> String {
    let parts = figures.parts.iter().zip(&core.parts);
    let parts = parts.map(|((part, _), share)| format!("{} {}", name(part), percent(*share)));
    format!(
        "core {}: {}",
        core.core,
        parts.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::super::figures::{Client, Group, Latency, Partition, Queue, Stall};
    use super::super::view::Wish;
    use super::*;

    const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\u{202e}red";

    fn figures(cores: usize, partitions: usize) -> Figures {
        let core = |core| Core {
            core,
            second: 3,
            seconds: 1.0,
            utilisation: 0.5,
            parts: vec![0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.02, 0.03],
            requests: 1234.0,
            bytes_in: 2e6,
            bytes_out: 3.5e6,
            partitions: 7,
            connections: 9,
            stalls: core as u64,
            latencies: vec![Latency {
                name: "Produce".into(),
                timed: 5,
                p50_us: 310.0,
                p99_us: 1500.0,
                ..Latency::default()
            }],
            queues: vec![Queue {
                queue: "tail cache".into(),
                unit: "bytes".into(),
                depth: 1 << 20,
                limit: Some(4 << 20),
            }],
            ..Core::default()
        };
        let mut figures = Figures {
            broker: 1,
            state: "running".into(),
            version: "1.2.3".into(),
            incarnation: "one".into(),
            now_ms: 5000,
            parts: ["receive", "decode", "cross-core"]
                .map(|part| (part.to_owned(), String::new()))
                .into(),
            cores: (0..cores).map(core).collect(),
            stalls: vec![Stall {
                core: 1,
                task: "upkeep".into(),
                us: 2500.0,
                at_ms: 2000,
            }],
            ..Figures::default()
        };
        figures.partitions.all = 10_000;
        figures.partitions.lines = (0..partitions)
            .map(|partition| Partition {
                topic: "orders".into(),
                partition: partition as i32,
                bytes_in: 1_500_000,
                ..Partition::default()
            })
            .collect();
        figures.clients.lines = vec![Client {
            client_id: HOSTILE.into(),
            connections: 3,
            ..Client::default()
        }];
        figures.groups.lines = vec![Group {
            group_id: HOSTILE.into(),
            state: "Stable".into(),
            ..Group::default()
        }];
        figures
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        };
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    fn view(cores: usize, partitions: usize) -> View {
        let mut view = View::new("127.0.0.1:9192", "");
        view.on_answer(figures(cores, partitions));
        view
    }

    fn press(view: &mut View, key: KeyCode) -> Wish {
        view.on_key(KeyEvent::new(key, KeyModifiers::NONE))
    }

    #[test]
    fn each_core_has_a_row_with_what_it_was_used_for() {
        let picture = drawn(&view(2, 3), 160, 24);
        let row = picture.lines().find(|line| line.starts_with("1 ")).unwrap();
        for figure in [
            "50 %",
            "2.00",
            "3.50",
            "1234",
            "310 us",
            "1.50 ms",
            "████",
            "····",
        ] {
            assert!(row.contains(figure), "{figure} is not in {row}");
        }
        assert!(picture.contains("in 4.00 MB/s  out 7.00 MB/s"), "{picture}");
        assert!(picture.contains("1 stalls") && picture.contains("█ cross-core"));
        assert!(picture.contains("1 Partitions 10000") && picture.contains("orders-2"));
    }

    #[test]
    fn a_bar_is_as_long_as_its_core_was_busy() {
        for (utilisation, width) in [(0.5, 20), (0.25, 33), (1.0, 10), (1.3, 10)] {
            let core = Core {
                parts: vec![utilisation / 9.0; 9],
                ..Core::default()
            };
            let bar: String = bar_of(&core, width)
                .iter()
                .map(|span| span.content.as_ref())
                .collect();
            assert_eq!(bar.chars().count(), width);
            let full = bar.chars().filter(|sign| *sign == '█').count();
            let wanted = (utilisation * width as f64).round() as usize;
            assert_eq!(full, wanted.min(width));
        }
    }

    #[test]
    fn it_fits_whatever_the_size() {
        for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (300, 90)] {
            for cores in [0, 1, 64] {
                let mut view = view(cores, 200);
                for list in List::ALL {
                    view.list = list;
                    let picture = drawn(&view, width, height);
                    assert!(picture.lines().count() <= usize::from(height));
                }
            }
        }
        let narrow = drawn(&view(2, 3), 60, 20);
        assert!(narrow.contains("50 %") && narrow.contains("██"), "{narrow}");
        assert!(narrow.contains("orders-0"), "{narrow}");
    }

    #[test]
    fn names_command_nothing() {
        let mut view = view(1, 1);
        for list in [List::Clients, List::Groups] {
            view.list = list;
            let picture = drawn(&view, 120, 20);
            assert!(picture.contains("]0;owned\u{fffd}"), "{picture}");
            let commands = |sign: char| sign.is_control() && sign != '\n' || sign == '\u{202e}';
            assert!(!picture.contains(commands), "{picture:?}");
            let text = list.table(view.figures.as_ref().unwrap()).to_string();
            assert!(!text.contains(commands), "{text:?}");
        }
    }

    #[test]
    fn keys_choose_sort_find_and_scroll() {
        let mut view = view(3, 50);
        assert!(view.path().contains("sort=busy"));
        assert_eq!(press(&mut view, KeyCode::Char('s')), Wish::Ask);
        assert!(view.path().contains("sort=in") && drawn(&view, 120, 30).contains("(by MB/s in)"));
        press(&mut view, KeyCode::End);
        assert_eq!(view.scroll, 49);
        press(&mut view, KeyCode::PageDown);
        assert_eq!(view.scroll, 49);
        press(&mut view, KeyCode::PageUp);
        assert_eq!(view.scroll, 39);
        assert!(drawn(&view, 120, 30).contains("orders-39"));
        assert!(!drawn(&view, 120, 30).contains("orders-38"));
        for _ in 0..9 {
            press(&mut view, KeyCode::Char(']'));
        }
        assert_eq!(view.cores_scroll, 2);
        press(&mut view, KeyCode::Tab);
        assert_eq!((view.list, view.scroll), (List::Requests, 0));
        press(&mut view, KeyCode::BackTab);
        press(&mut view, KeyCode::BackTab);
        assert_eq!(view.list, List::Groups);
        press(&mut view, KeyCode::Char('4'));
        assert!(drawn(&view, 120, 30).contains("2.50 ms"));

        press(&mut view, KeyCode::Char('/'));
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::Ask);
        assert_eq!(press(&mut view, KeyCode::Char('&')), Wish::Ask);
        assert!(view.path().ends_with("find=q%26"), "{}", view.path());
        assert!(drawn(&view, 120, 30).contains("find: q&_"));
        press(&mut view, KeyCode::Enter);
        assert!(drawn(&view, 120, 30).contains("only q&"));
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.on_key(interrupt), Wish::Quit);
    }

    #[test]
    fn silence_is_told_and_another_run_has_no_past() {
        let mut view = View::new("127.0.0.1:1", "");
        assert!(drawn(&view, 120, 10).contains("asking 127.0.0.1:1"));
        view.on_silence("connection refused".into(), None);
        assert!(drawn(&view, 120, 10).contains("does not answer: connection refused"));
        for _ in 0..5 {
            view.on_answer(figures(1, 1));
        }
        assert_eq!(view.past[&0].len(), 5);
        view.on_silence("x\u{1b}[2J".into(), Some(61.0));
        let picture = drawn(&view, 120, 12);
        assert!(
            picture.contains("does not answer for 1 min 1 s"),
            "{picture}"
        );
        assert!(
            picture.contains("orders-0"),
            "what there was is still shown"
        );
        let mut restarted = figures(1, 1);
        restarted.incarnation = "two".into();
        view.on_answer(restarted);
        assert_eq!(view.past[&0], [500]);
        assert!(!drawn(&view, 120, 12).contains("does not answer"));
        for _ in 0..1000 {
            view.on_answer(figures(1, 1));
        }
        assert!(view.past[&0].len() < 300);
    }
}
