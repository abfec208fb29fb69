//! A running job on the standard error: redrawn lines on a terminal, plain ones elsewhere.

use std::time::{Duration, Instant};

use freshet_core::engine::{JobState, JobStatus};

use crate::render::Printer;
use crate::render::progress::{Meter, events, line, lines};

/// How often a plain line is printed while tables are copied, and while changes are followed.
const PLAIN_COPYING: Duration = Duration::from_secs(5);
const PLAIN_STREAMING: Duration = Duration::from_secs(60);

/// What is on the screen.
pub(super) struct View<'a> {
    printer: &'a Printer,
    begun: Instant,
    meter: Meter,
    last: Option<JobStatus>,
    printed: Option<Instant>,
    /// Lines that the next drawing replaces.
    drawn: usize,
}

impl<'a> View<'a> {
    /// Nothing yet.
    pub(super) fn new(printer: &'a Printer) -> View<'a> {
        View { printer, begun: Instant::now(), meter: Meter::default(), last: None, printed: None, drawn: 0 }
    }

    /// How often to look.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(if self.printer.terminal { 200 } else { 500 })
    }

    /// Shows the job as it is now; `below` is drawn under it on a terminal.
    pub(super) fn show(&mut self, job: &JobStatus, below: &str) {
        self.meter.look(self.begun.elapsed(), job);
        let changed = self.last.as_ref().map(|l| l.state) != Some(job.state);
        let news = events(self.last.as_ref(), job, self.printer.style);
        if self.printer.terminal {
            let mut text = self.erase();
            news.iter().for_each(|line| text.push_str(&format!("{line}\n")));
            let mut drawing = lines(job, &self.meter, self.printer.style);
            drawing.extend(below.lines().map(str::to_string));
            self.drawn = drawing.len();
            // Lines that are too long are cut by the terminal, or going up again would miss.
            text.push_str("\x1b[?7l");
            drawing.iter().for_each(|line| text.push_str(&format!("{line}\x1b[K\n")));
            text.push_str("\x1b[?7h");
            self.printer.error_text(&text);
        } else {
            news.iter().for_each(|line| self.printer.note(line));
            let every = if job.state == JobState::Copying { PLAIN_COPYING } else { PLAIN_STREAMING };
            if changed || self.printed.is_none_or(|t| t.elapsed() >= every) {
                self.printer.note(&line(job, &self.meter));
                self.printed = Some(Instant::now());
            }
        }
        self.last = Some(job.clone());
    }

    /// Takes the drawing away.
    pub(super) fn clear(&mut self) {
        if self.printer.terminal {
            let text = self.erase();
            self.printer.error_text(&text);
        }
    }

    fn erase(&mut self) -> String {
        let up = std::mem::take(&mut self.drawn);
        if up == 0 { String::new() } else { format!("\x1b[{up}A\x1b[J") }
    }
}
