//! Where progress goes.

use super::{pass::Pass, terminal::Terminal, text::metrics_line, trouble::Trouble};
use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How a run shows its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// A bar if standard error is a terminal; otherwise (a file, a pipe, `TERM=dumb`) a plain line at the start and the end
    /// of a pass and at most one every 10 seconds between.
    #[default]
    Auto,
    /// A bar in any case, for a terminal that does not look like one: a notebook, a viewer of logs.
    On,
    /// Nothing but the lines that were asked for with [`LogEvery`](super::LogEvery).
    Off,
}

pub(super) enum Show {
    Bars(Terminal),
    Lines,
    Nothing,
}

/// Reads the time since some moment in the past.
pub(super) type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

pub(super) struct Output {
    pub(super) show: Show,
    /// For plain lines; a terminal writes its own.
    writer: Mutex<Box<dyn Write + Send>>,
    pub(super) clock: Clock,
    pub(super) trouble: Arc<Trouble>,
}

impl Output {
    pub(super) fn line(&self, text: &str) {
        if self.trouble.is_broken() {
            return;
        }
        match &self.show {
            Show::Bars(terminal) => terminal.line(text),
            Show::Lines | Show::Nothing => {
                let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                let written = writeln!(writer, "{text}").and_then(|()| writer.flush());
                drop(writer);
                self.trouble.note(written);
            }
        }
        self.trouble.report();
    }
}

/// Shows passes over data and lines of numbers, on standard error. Clones share the same screen.
#[derive(Clone)]
pub struct Progress {
    pub(super) output: Arc<Output>,
}

impl Progress {
    /// Progress on standard error.
    pub fn new(mode: ProgressMode) -> Self {
        let trouble = Arc::new(Trouble::default());
        let show = match mode {
            ProgressMode::Off => Show::Nothing,
            ProgressMode::Auto if !Terminal::stderr_can_draw() => Show::Lines,
            ProgressMode::Auto | ProgressMode::On => Show::Bars(Terminal::stderr(trouble.clone())),
        };
        Self::build(show, Box::new(io::stderr()), since_now(), trouble)
    }

    /// Plain lines into a writer of your own, such as a file: a line at the start and the end of a pass and at most one every
    /// 10 seconds between.
    pub fn plain(writer: impl Write + Send + 'static) -> Self {
        Self::build(Show::Lines, Box::new(writer), since_now(), Arc::default())
    }

    /// Bars on a terminal of your own.
    #[doc(hidden)]
    pub fn on_terminal(terminal: impl indicatif::TermLike + 'static) -> Self {
        Self::on_terminal_with_clock(terminal, since_now())
    }

    pub(super) fn on_terminal_with_clock(terminal: impl indicatif::TermLike + 'static, clock: Clock) -> Self {
        let trouble = Arc::new(Trouble::default());
        let show = Show::Bars(Terminal::new(Arc::new(terminal), trouble.clone()));
        Self::build(show, Box::new(io::sink()), clock, trouble)
    }

    #[cfg(test)]
    pub(super) fn plain_with_clock(writer: impl Write + Send + 'static, clock: Clock) -> Self {
        Self::build(Show::Lines, Box::new(writer), clock, Arc::default())
    }

    fn build(show: Show, writer: Box<dyn Write + Send>, clock: Clock, trouble: Arc<Trouble>) -> Self {
        Self { output: Arc::new(Output { show, writer: Mutex::new(writer), clock, trouble }) }
    }

    /// Starts a pass: `label` is what stands before the colon (`Training (2)`), `total` the steps it will have where that is
    /// known, `already_done` those that an earlier call or an interrupted run has done of it.
    pub fn start(&self, label: &str, total: Option<u64>, already_done: u64) -> Pass {
        Pass::new(self.output.clone(), label, total, already_done)
    }

    /// Prints a line above the bar, whatever the mode.
    pub fn line(&self, text: &str) {
        self.output.line(text);
    }

    /// Prints metrics as one line, the loss last (`accuracy=0.9779 loss=0.07041411`), unless the mode is
    /// [`ProgressMode::Off`].
    pub fn metrics<'a>(&self, metrics: impl IntoIterator<Item = (&'a str, f64)>) {
        if !matches!(self.output.show, Show::Nothing) {
            self.output.line(&metrics_line(metrics));
        }
    }

    /// Prints a line above the bar, unless the mode is [`ProgressMode::Off`].
    pub(crate) fn remark(&self, text: &str) {
        if !matches!(self.output.show, Show::Nothing) {
            self.output.line(text);
        }
    }

    /// Takes the bar off the screen while `f` prints something of its own, as a logger does.
    pub fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        let result = match &self.output.show {
            Show::Bars(terminal) => terminal.suspend(f),
            Show::Lines | Show::Nothing => f(),
        };
        self.output.trouble.report();
        result
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.output.show {
            Show::Bars(_) => "Progress (bars)",
            Show::Lines => "Progress (plain lines)",
            Show::Nothing => "Progress (off)",
        })
    }
}

fn since_now() -> Clock {
    let start = Instant::now();
    Box::new(move || start.elapsed())
}
