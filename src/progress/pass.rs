//! One pass over data, shown.

use super::{
    output::{Output, Show},
    terminal::Bar,
    text::{Moment, one_line},
};
use std::{sync::Arc, time::Duration};

/// Ten redraws a second are as many as an eye takes, and as many reads of the loss as a device should suffer.
const REDRAW: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(10);
/// Weight of the newest interval in the rate, as in tqdm.
const SMOOTHING: f64 = 0.3;

/// One pass, from [`Progress::start`](super::Progress::start) until it is finished or dropped.
///
/// A step costs a reading of the clock as long as nothing is due. Read the loss from its device only when something is:
///
/// ```
/// # use elistimator::progress::{loss_text, Progress, ProgressMode};
/// # fn loss_from_the_device() -> f64 { 0.5 }
/// let progress = Progress::new(ProgressMode::Off);
/// let mut pass = progress.start("Training (1)", None, 0);
/// for _ in 0..3 {
///     pass.tick();
///     if pass.is_due() {
///         pass.set_message(loss_text(loss_from_the_device()));
///     }
/// }
/// pass.set_message(loss_text(loss_from_the_device())); // the last line shows the last loss
/// pass.finish();
/// ```
pub struct Pass {
    output: Arc<Output>,
    bar: Option<Bar>,
    /// Nothing is ever due without one.
    interval: Option<Duration>,
    label: String,
    message: String,
    total: Option<u64>,
    already_done: u64,
    position: u64,
    started: Duration,
    last: Duration,
    last_position: u64,
    rate: Option<f64>,
    due: bool,
    finished: bool,
}

impl Pass {
    pub(super) fn new(output: Arc<Output>, label: &str, total: Option<u64>, already_done: u64) -> Self {
        let (bar, interval) = match &output.show {
            Show::Bars(terminal) => (Some(terminal.start()), Some(REDRAW)),
            Show::Lines => (None, Some(LINE)),
            Show::Nothing => (None, None),
        };
        let started = (output.clock)();
        let mut pass = Self {
            output,
            bar,
            interval,
            label: one_line(label),
            message: String::new(),
            total,
            already_done,
            position: already_done,
            started,
            last: started,
            last_position: already_done,
            rate: None,
            due: false,
            finished: false,
        };
        match &pass.output.show {
            Show::Bars(_) => pass.draw(started),
            Show::Lines => pass.output.line(&pass.opening()),
            Show::Nothing => {}
        }
        pass
    }

    /// A step is done.
    #[inline]
    pub fn tick(&mut self) {
        self.advance(1);
    }

    /// So many steps are done.
    #[inline]
    pub fn advance(&mut self, steps: u64) {
        self.position = self.position.saturating_add(steps);
        if let Some(interval) = self.interval {
            let now = (self.output.clock)();
            if now.saturating_sub(self.last) >= interval {
                self.fall_due(now);
            }
        }
    }

    #[cold]
    fn fall_due(&mut self, now: Duration) {
        if self.due {
            // Nobody had anything to say the last time.
            self.draw(now);
        } else {
            self.due = true;
        }
    }

    /// Would a message be shown at once? At most ten times a second with a bar, once in ten seconds with plain lines, never
    /// without progress: so this is the time to read a loss from the device.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// Says what stands last in the line, as [`loss_text`](super::loss_text) makes it; drawn now if a redraw is due, and at
    /// the end in any case.
    pub fn set_message(&mut self, message: impl Into<String>) {
        self.message = one_line(&message.into());
        if self.due {
            self.draw((self.output.clock)());
        }
    }

    /// Says how many steps the pass has, counted with those that were already done.
    pub fn set_total(&mut self, total: Option<u64>) {
        self.total = total;
    }

    /// The steps done so far, counted with those that were already done at the start.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Ends the pass: its last state stays on the screen. Dropping it does the same.
    pub fn finish(mut self) {
        self.close();
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let elapsed = (self.output.clock)().saturating_sub(self.started);
        let steps = self.position.saturating_sub(self.already_done);
        self.rate = rate(steps, elapsed);
        self.show(elapsed);
        if let (Show::Bars(terminal), Some(bar)) = (&self.output.show, &self.bar) {
            terminal.finish(bar);
        }
        self.output.trouble.report();
    }

    fn draw(&mut self, now: Duration) {
        self.due = false;
        let steps = self.position.saturating_sub(self.last_position);
        if let Some(newest) = rate(steps, now.saturating_sub(self.last)) {
            self.rate = Some(match self.rate {
                Some(rate) => rate + SMOOTHING * (newest - rate),
                None => newest,
            });
        }
        self.last = now;
        self.last_position = self.position;
        self.show(now.saturating_sub(self.started));
        if self.output.trouble.is_broken() {
            self.interval = None;
            self.output.trouble.report();
        }
    }

    fn show(&self, elapsed: Duration) {
        // A pass that outgrows its total did not know it.
        let total = self.total.filter(|&total| self.position <= total);
        let moment = Moment { position: self.position, total, elapsed, rate: self.rate, message: &self.message };
        match (&self.output.show, &self.bar) {
            (Show::Bars(_), Some(bar)) => {
                let head = match total {
                    Some(_) => format!("{}: {}", self.label, moment.percent()),
                    None => self.label.clone(),
                };
                bar.draw(head, moment.tail(), self.position, total);
            }
            (Show::Lines, _) => {
                let percent = total.map(|_| moment.percent() + " ").unwrap_or_default();
                self.output.line(&format!("{}: {percent}{}", self.label, moment.tail()));
            }
            _ => {}
        }
    }

    fn opening(&self) -> String {
        let label = &self.label;
        match (self.total, self.already_done) {
            (None, 0) => format!("{label}: started"),
            (None, done) => format!("{label}: started after step {done}"),
            (Some(total), 0) => format!("{label}: started, {total} steps"),
            (Some(total), done) => format!("{label}: started after step {done} of {total}"),
        }
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.close();
    }
}

/// Steps per second; none while either is zero.
fn rate(steps: u64, time: Duration) -> Option<f64> {
    (steps > 0 && !time.is_zero()).then(|| steps as f64 / time.as_secs_f64())
}
