//! Owns: what commands know of the terminal: its width, whether it shows colours, and tables that fit into it.
//! Invariant: output that is no terminal gets no colours and is not cut; columns that don't fit are left out whole.
//! Must not know: what a table shows.

use std::io::{IsTerminal, stdout};

/// The width of lines for a terminal that doesn't tell its own.
const DEFAULT_WIDTH: usize = 80;

/// A terminal, or a file or pipe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    /// Its width in characters; `None` for output of any width.
    pub(super) width: Option<usize>,
    has_colours: bool,
}

/// A colour by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Warning,
    Bad,
    Plain,
}

impl Terminal {
    /// A file or pipe.
    pub(super) const NONE: Terminal = Terminal { width: None, has_colours: false };

    /// Returns that of standard output. `NO_COLOR` switches colours off (no-color.org).
    pub(super) fn of_stdout() -> Terminal {
        if !stdout().is_terminal() {
            return Terminal::NONE;
        }
        let size = rustix::termios::tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col));
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Terminal { width: Some(size.filter(|width| *width > 0).unwrap_or(DEFAULT_WIDTH)), has_colours }
    }

    /// Returns `text` in a colour.
    pub(super) fn coloured(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.has_colours => return text.into(),
            Colour::Good => 32,
            Colour::Warning => 33,
            Colour::Bad => 31,
            Colour::Plain => return text.into(),
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Numbers are aligned to the right.
    pub(super) is_number: bool,
    /// Columns with the highest rank are left out first. Those of rank 0 always stay.
    pub(super) rank: u8,
}

/// A table: columns, and rows of as many cells. A cell may have a colour.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<(String, Colour)>>,
}

/// The blanks between two columns.
const GAP: usize = 2;

impl Table {
    /// Formats the table, each line after `indent` blanks.
    pub(super) fn lines(&self, terminal: Terminal, indent: usize) -> Vec<String> {
        let shown = self.shown(terminal.width.map(|width| width.saturating_sub(indent)));
        let title = self.columns.iter().map(|column| (column.title.to_owned(), Colour::Plain)).collect();
        let line = |cells: &Vec<(String, Colour)>| {
            let mut line = " ".repeat(indent);
            for (nth, (at, width)) in shown.iter().enumerate() {
                let (Some((text, colour)), Some(column)) = (cells.get(*at), self.columns.get(*at)) else { continue };
                let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
                let (before, after) = if column.is_number { (blanks, String::new()) } else { (String::new(), blanks) };
                let gap = if nth == 0 { 0 } else { GAP };
                line += &format!("{}{before}{}{after}", " ".repeat(gap), terminal.coloured(*colour, text));
            }
            line.trim_end().to_owned()
        };
        std::iter::once(&title).chain(&self.rows).map(line).collect()
    }

    /// Returns the positions and widths of the columns that fit.
    fn shown(&self, width: Option<usize>) -> Vec<(usize, usize)> {
        let cell =
            |at: usize| self.rows.iter().filter_map(move |row| row.get(at)).map(|(text, _)| text.chars().count());
        let needed =
            |(at, column): (usize, &Column)| (at, cell(at).chain([column.title.chars().count()]).max().unwrap_or(0));
        let mut shown: Vec<_> = self.columns.iter().enumerate().map(needed).collect();
        while let Some(width) = width
            && shown.iter().map(|(_, width)| width + GAP).sum::<usize>() > width + GAP
        {
            let rank = |(_, (at, _)): &(usize, &(usize, usize))| self.columns.get(*at).map_or(0, |column| column.rank);
            match shown.iter().enumerate().max_by_key(rank) {
                Some((nth, (at, _))) if self.columns.get(*at).is_some_and(|column| column.rank > 0) => {
                    shown.remove(nth);
                }
                _ => break,
            }
        }
        shown
    }
}

/// Formats a number with commas between its thousands.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a duration with its two largest units: `3d 4h`, `59s`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let from = units.iter().position(|(_, count)| *count > 0).unwrap_or(units.len() - 1);
    let shown = units.iter().skip(from).take(2).filter(|(_, count)| *count > 0 || seconds == 0);
    shown.map(|(unit, count)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |title, is_number, rank| Column { title, is_number, rank };
        let row = |cells: [&str; 4]| cells.map(|cell| (cell.to_owned(), Colour::Plain)).into();
        Table {
            columns: vec![
                column("BACKEND", false, 0),
                column("ADDRESS", false, 2),
                column("STATE", false, 0),
                column("REQUESTS", true, 1),
            ],
            rows: vec![row(["a", "127.0.0.1:9001", "ready", "12,345"]), row(["b-2", "[::1]:9002", "drain", "7"])],
        }
    }

    #[test]
    fn numbers_are_aligned_and_columns_that_do_not_fit_are_left_out() {
        let wide = [
            "  BACKEND  ADDRESS         STATE  REQUESTS",
            "  a        127.0.0.1:9001  ready    12,345",
            "  b-2      [::1]:9002      drain         7",
        ];
        assert_eq!(table().lines(Terminal::NONE, 2), wide);
        let at = |width| table().lines(Terminal { width: Some(width), has_colours: false }, 2);
        assert_eq!(at(42), wide);
        assert_eq!(at(41), ["  BACKEND  STATE  REQUESTS", "  a        ready    12,345", "  b-2      drain         7"]);
        assert_eq!(at(10), ["  BACKEND  STATE", "  a        ready", "  b-2      drain"], "as narrow as it gets");
    }

    #[test]
    fn colours_take_no_width_and_files_get_none() {
        let cell = (String::from("up"), Colour::Good);
        let column = Column { title: "HEALTH", is_number: false, rank: 0 };
        let table = Table { columns: vec![column, column], rows: vec![vec![cell.clone(), cell]] };
        let coloured = Terminal { width: None, has_colours: true };
        assert_eq!(table.lines(coloured, 0)[1], "\x1b[32mup\x1b[0m      \x1b[32mup\x1b[0m");
        assert_eq!(table.lines(Terminal::NONE, 0)[1], "up      up");
    }

    #[test]
    fn numbers_and_durations_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 59, 60, 3661, 90_000, 86_400].map(duration), ["0s", "59s", "1m", "1h 1m", "1d 1h", "1d"]);
    }
}
