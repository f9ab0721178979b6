//! How numbers and durations look in a bar and in a line.

use std::{fmt::Write, time::Duration};

/// Significant digits of a metric: what an `f32` holds, so that 0.9779 is not shown as 0.97790003.
const DIGITS: i32 = 7;

/// The loss as a bar shows it, to hand to [`Pass::set_message`](super::Pass::set_message): `loss=0.039297`.
pub fn loss_text(loss: f64) -> String {
    if !loss.is_finite() {
        return format!("loss={}", special(loss));
    }
    let size = loss.abs();
    if size != 0.0 && !(1e-4..1e8).contains(&size) {
        return format!("loss={loss:.4e}");
    }
    // Six decimals, and no more than eight digits altogether.
    let decimals = (7 - magnitude(size)).clamp(0, 6);
    format!("loss={loss:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// Metrics as one line, the loss last: `accuracy=0.9779 loss=0.07041411`. Up to seven significant digits, without
/// trailing zeros; NaN is printed as `NaN`.
pub fn metrics_line<'a>(metrics: impl IntoIterator<Item = (&'a str, f64)>) -> String {
    let mut line = String::new();
    let mut loss = None;
    for (name, value) in metrics {
        if name == "loss" {
            loss = Some(value);
        } else {
            push_pair(&mut line, name, value);
        }
    }
    if let Some(value) = loss {
        push_pair(&mut line, "loss", value);
    }
    line
}

pub(super) fn push_pair(line: &mut String, name: &str, value: f64) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(&one_line(name));
    line.push('=');
    line.push_str(&number(value));
}

/// A number with up to seven significant digits, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return special(value).to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = magnitude(value.abs());
    if !(-5..15).contains(&magnitude) {
        let text = format!("{value:.*e}", 6);
        return match text.split_once('e') {
            Some((digits, exponent)) => format!("{}e{exponent}", trim_zeros(digits)),
            None => text,
        };
    }
    let decimals = usize::try_from(DIGITS - 1 - magnitude).unwrap_or(0);
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

/// The power of ten of the first digit; -1 for 0.5, 0 for 1 and for 0.
fn magnitude(size: f64) -> i32 {
    if size == 0.0 || !size.is_finite() {
        return 0;
    }
    // The logarithm of a finite positive number is within ±324.
    #[allow(clippy::cast_possible_truncation)]
    let power = size.log10().floor() as i32;
    power
}

fn trim_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

fn special(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

/// Names may hold anything; a newline or an escape sequence among them must not tear the screen.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `00:04`, `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

/// One moment of a pass, without its label.
pub(super) struct Moment<'a> {
    pub(super) position: u64,
    pub(super) total: Option<u64>,
    pub(super) elapsed: Duration,
    /// Steps per second, once there is one to speak of.
    pub(super) rate: Option<f64>,
    pub(super) message: &'a str,
}

impl Moment<'_> {
    /// `100%`, padded as long as it is less.
    pub(super) fn percent(&self) -> String {
        let percent = match self.total {
            None | Some(0) => 100,
            Some(total) => u128::from(self.position) * 100 / u128::from(total),
        };
        format!("{:3}%", percent.min(100))
    }

    /// `1072it [00:05, 196.23it/s, loss=0.039297]`, or `1072/1072 [00:04<00:00, 226.56it/s, loss=0.040465]`.
    pub(super) fn tail(&self) -> String {
        let mut tail = String::with_capacity(80);
        // Writing into a String cannot fail.
        let _ = match self.total {
            None => write!(tail, "{}it [{}, ", self.position, clock(self.elapsed)),
            Some(total) => {
                let left = match self.rate {
                    _ if self.position >= total => "00:00".to_owned(),
                    Some(rate) => Duration::try_from_secs_f64((total - self.position) as f64 / rate)
                        .map_or_else(|_| "?".to_owned(), clock),
                    None => "?".to_owned(),
                };
                write!(tail, "{}/{total} [{}<{left}, ", self.position, clock(self.elapsed))
            }
        };
        let _ = match self.rate {
            None => write!(tail, "?it/s"),
            Some(rate) if rate < 1.0 => write!(tail, "{:.2}s/it", 1.0 / rate),
            Some(rate) => write!(tail, "{rate:.2}it/s"),
        };
        if !self.message.is_empty() {
            tail.push_str(", ");
            tail.push_str(self.message);
        }
        tail.push(']');
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses() {
        for (loss, text) in [
            (0.039297, "loss=0.039297"),
            (1.302585093, "loss=1.302585"),
            (1234.56789, "loss=1234.5679"),
            (0.0, "loss=0.000000"),
            (3.2e-7, "loss=3.2000e-7"),
            (4e20, "loss=4.0000e20"),
            (-0.5, "loss=-0.500000"),
            (f64::NAN, "loss=NaN"),
            (f64::NEG_INFINITY, "loss=-inf"),
        ] {
            assert_eq!(loss_text(loss), text);
        }
    }

    #[test]
    fn the_loss_comes_last_and_f32_noise_is_not_shown() {
        let accuracy = f64::from(0.9779f32);
        assert_eq!(metrics_line([("loss", 0.07041411), ("accuracy", accuracy)]), "accuracy=0.9779 loss=0.07041411");
        assert_eq!(metrics_line([("f1", f64::NAN), ("loss", f64::INFINITY)]), "f1=NaN loss=inf");
        assert_eq!(metrics_line([("a\nb", 1.0)]), "a b=1");
        assert_eq!(metrics_line([]), "");
    }

    #[test]
    fn numbers() {
        for (value, text) in [
            (1.0, "1"),
            (100.0, "100"),
            (0.1, "0.1"),
            (1234567.0, "1234567"),
            (123456789.0, "123456789"),
            (0.99999999, "1"),
            (1e-9, "1e-9"),
            (1.25e300, "1.25e300"),
            (5e-324, "4.940656e-324"),
            (f64::MAX, "1.797693e308"),
            (-0.25, "-0.25"),
            (0.0, "0"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn moments() {
        let second = Duration::from_secs(1);
        let mut moment =
            Moment { position: 1072, total: None, elapsed: 5 * second, rate: Some(196.234), message: "loss=0.039297" };
        assert_eq!(moment.tail(), "1072it [00:05, 196.23it/s, loss=0.039297]");
        moment.total = Some(2144);
        moment.rate = Some(0.5);
        moment.message = "";
        assert_eq!((moment.percent(), moment.tail()), (" 50%".into(), "1072/2144 [00:05<35:44, 2.00s/it]".into()));
        moment.rate = Some(1e-300);
        assert!(moment.tail().contains("<?,"));
        let full =
            Moment { position: u64::MAX, total: Some(u64::MAX), elapsed: 3723 * second, rate: None, message: "" };
        assert_eq!(full.percent(), "100%");
        assert!(full.tail().contains("[1:02:03<00:00, ?it/s]"));
    }
}
