//! Lines of numbers at fixed distances.

use super::text::{number, push_pair};
use crate::{Error, ErrorKind, Result};
use std::time::{Duration, Instant};

/// How often a line with the loss is printed during training, with or without a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogEvery {
    /// At every global step that is a multiple of this.
    Steps(u64),
    /// At the first step after so many seconds since the last line.
    Seconds(f64),
}

/// Decides when a line is due, and writes it: `step=500 loss=0.0312 steps/s=230.1 name=value`.
#[derive(Debug)]
pub struct StepLog {
    every: Every,
    last_step: u64,
    last_time: Instant,
    /// When training was left, and for how long it was in all, since the last line.
    left: Option<Instant>,
    away: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Every {
    Steps(u64),
    Time(Duration),
}

impl StepLog {
    /// Starts after the global step `step`. Not a positive number: [`ErrorKind::InvalidArgument`].
    pub fn new(every: LogEvery, step: u64) -> Result<Self> {
        let refuse = |found: String| {
            let message = format!("log_every takes a positive number of steps or seconds, not {found}");
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let every = match every {
            LogEvery::Steps(0) => return Err(refuse("0 steps".into())),
            LogEvery::Steps(steps) => Every::Steps(steps),
            LogEvery::Seconds(seconds) => match Duration::try_from_secs_f64(seconds) {
                Ok(time) if !time.is_zero() => Every::Time(time),
                _ => return Err(refuse(format!("{seconds} seconds"))),
            },
        };
        Ok(Self { every, last_step: step, last_time: Instant::now(), left: None, away: Duration::ZERO })
    }

    /// Is a line due after this global step? Costs next to nothing for steps, a reading of the clock for seconds.
    #[inline]
    pub fn is_due(&self, step: u64) -> bool {
        match self.every {
            Every::Steps(steps) => step.is_multiple_of(steps) && step != self.last_step,
            Every::Time(time) => self.last_time.elapsed() >= time,
        }
    }

    /// The time away from training (a validation, a save) is not counted into steps/s: call this before going on.
    pub fn restart(&mut self, step: u64) {
        self.last_step = step;
        self.last_time = Instant::now();
        (self.left, self.away) = (None, Duration::ZERO);
    }

    /// Training goes on elsewhere or not at all until [`come_back`](Self::come_back): no part of steps/s, while a line is due as
    /// if nothing had happened.
    pub(crate) fn leave(&mut self) {
        self.left = Some(Instant::now());
    }

    /// Training goes on.
    pub(crate) fn come_back(&mut self) {
        self.away += self.left.take().map_or(Duration::ZERO, |left| left.elapsed());
    }

    /// The line for this step, with the mean steps per second since the last one.
    pub fn line<'a>(&mut self, step: u64, loss: f64, values: impl IntoIterator<Item = (&'a str, f64)>) -> String {
        let elapsed = self.last_time.elapsed().saturating_sub(self.away);
        self.line_after(step, loss, values, elapsed)
    }

    fn line_after<'a>(
        &mut self,
        step: u64,
        loss: f64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
        elapsed: Duration,
    ) -> String {
        let steps = step.saturating_sub(self.last_step);
        let mut line = format!("step={step} loss={}", number(loss));
        if steps > 0 && !elapsed.is_zero() {
            line += &format!(" steps/s={:.1}", steps as f64 / elapsed.as_secs_f64());
        }
        for (name, value) in values {
            push_pair(&mut line, name, value);
        }
        self.restart(step);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_many_steps() {
        let mut log = StepLog::new(LogEvery::Steps(500), 0).unwrap();
        assert!(!log.is_due(0) && !log.is_due(499) && log.is_due(500));
        let line = log.line_after(500, 0.0312, [("learning_rate", 0.001)], Duration::from_millis(2173));
        assert_eq!(line, "step=500 loss=0.0312 steps/s=230.1 learning_rate=0.001");
        assert!(!log.is_due(500) && log.is_due(1000));
        assert_eq!(log.line_after(500, f64::NAN, [], Duration::from_secs(1)), "step=500 loss=NaN");
    }

    #[test]
    fn every_so_many_seconds() {
        // Long, since others may have the processor between two lines of this test.
        let (every, longer) = (Duration::from_secs(600), Duration::from_secs(601));
        let mut log = StepLog::new(LogEvery::Seconds(every.as_secs_f64()), 0).unwrap();
        assert!(!log.is_due(1));
        // A clock that began less than that ago has no such time.
        let Some(long_ago) = Instant::now().checked_sub(longer) else { return };
        log.last_time = long_ago;
        assert!(log.is_due(2));
        log.restart(2);
        assert!(!log.is_due(3));
        let log = StepLog::new(LogEvery::Seconds(0.02), 0).unwrap();
        std::thread::sleep(Duration::from_millis(25));
        assert!(log.is_due(4));
    }

    #[test]
    fn distances_that_cannot_work() {
        for every in [LogEvery::Steps(0), LogEvery::Seconds(0.0), LogEvery::Seconds(-1.0), LogEvery::Seconds(f64::NAN)]
        {
            assert_eq!(StepLog::new(every, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(StepLog::new(LogEvery::Seconds(f64::INFINITY), 0).is_err());
    }
}
