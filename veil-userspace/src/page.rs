//! Text for people: titles, and aligned lines of label and value. `veil show` and `veil doctor` are made of these.

use std::fmt::Write;

pub const BOLD: &str = "1";
pub const DIM: &str = "2";
pub const GREEN: &str = "32";
pub const YELLOW: &str = "33";

/// Width of the labels: "last handshake" and two spaces.
pub const LABEL: usize = 16;

/// What has been written so far.
pub struct Page {
    pub text: String,
    colour: bool,
}

impl Page {
    /// An empty page; with ANSI colours when `colour`.
    pub fn new(colour: bool) -> Page {
        Page { text: String::new(), colour }
    }

    /// What the lines below are about.
    pub fn title(&mut self, kind: &str, name: &str) {
        let name = self.paint(BOLD, &printable(name));
        let _ = writeln!(self.text, "{kind} {name}");
    }

    pub fn line(&mut self, label: &str, value: &str) {
        let label = self.paint(DIM, &format!("{label:LABEL$}"));
        let _ = writeln!(self.text, "  {label}{value}");
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    /// `text` in a colour, if there are any.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A list on one line.
pub fn listed<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// Control characters would let a name write over the screen.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
