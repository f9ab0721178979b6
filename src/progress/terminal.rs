//! The bar on a terminal. The only file that names indicatif.

use super::trouble::Trouble;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal that keeps its first error: indicatif drops them all.
#[derive(Debug, Clone)]
struct Screen {
    term: Arc<dyn TermLike>,
    trouble: Arc<Trouble>,
}

impl Screen {
    fn unless_broken(&self, write: impl FnOnce(&dyn TermLike) -> io::Result<()>) -> io::Result<()> {
        if !self.trouble.is_broken() {
            self.trouble.note(write(&*self.term));
        }
        Ok(())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        // A pseudo-terminal without a size says 0.
        match self.term.width() {
            0 => 80,
            width => width,
        }
    }
    fn height(&self) -> u16 {
        match self.term.height() {
            0 => 24,
            height => height,
        }
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.unless_broken(|term| term.move_cursor_up(n))
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.unless_broken(|term| term.move_cursor_down(n))
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.unless_broken(|term| term.move_cursor_right(n))
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.unless_broken(|term| term.move_cursor_left(n))
    }
    fn write_line(&self, s: &str) -> io::Result<()> {
        self.unless_broken(|term| term.write_line(s))
    }
    fn write_str(&self, s: &str) -> io::Result<()> {
        self.unless_broken(|term| term.write_str(s))
    }
    fn clear_line(&self) -> io::Result<()> {
        self.unless_broken(|term| term.clear_line())
    }
    fn flush(&self) -> io::Result<()> {
        self.unless_broken(|term| term.flush())
    }
}

/// A terminal with at most one bar at its bottom.
#[derive(Debug)]
pub(super) struct Terminal {
    screen: Screen,
    active: Mutex<Option<Bar>>,
}

impl Terminal {
    /// Standard error, whatever it is connected to.
    pub(super) fn stderr(trouble: Arc<Trouble>) -> Self {
        Self::new(Arc::new(console::Term::buffered_stderr()), trouble)
    }

    /// Is standard error a terminal that can move its cursor?
    pub(super) fn stderr_can_draw() -> bool {
        io::IsTerminal::is_terminal(&io::stderr()) && !console::is_dumb()
    }

    pub(super) fn new(term: Arc<dyn TermLike>, trouble: Arc<Trouble>) -> Self {
        Self { screen: Screen { term, trouble }, active: Mutex::new(None) }
    }

    /// Puts a new bar at the bottom; one that is still there is left above as it stands.
    pub(super) fn start(&self) -> Bar {
        let target = ProgressDrawTarget::term_like(Box::new(self.screen.clone()));
        let texts = Arc::new(Mutex::new(Texts::default()));
        let bar = Bar {
            bar: ProgressBar::with_draw_target(None, target),
            texts,
            hidden: Arc::new(AtomicUsize::new(0)),
            screen: self.screen.clone(),
        };
        bar.restyle();
        let previous = lock(&self.active).replace(bar.clone());
        if let Some(previous) = previous {
            previous.leave();
        }
        bar
    }

    /// Ends a bar: it stays as the last line, and what follows starts on the next one.
    pub(super) fn finish(&self, bar: &Bar) {
        bar.leave();
        let mut active = lock(&self.active);
        if active.as_ref().is_some_and(|active| Arc::ptr_eq(&active.texts, &bar.texts)) {
            *active = None;
        }
    }

    /// Writes a line above the bar.
    pub(super) fn line(&self, text: &str) {
        self.suspend(|| {
            let _ = self.screen.write_line(text);
            let _ = self.screen.flush();
        });
    }

    /// Takes the bar away, runs `f`, and draws the bar again. Holds no lock meanwhile: `f` may log, print lines, or suspend.
    pub(super) fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        let active = lock(&self.active).clone();
        let _hidden = active.map(Hidden::new);
        f()
    }
}

/// What the bar shows around its middle.
#[derive(Debug, Default)]
struct Texts {
    head: String,
    tail: String,
    sized: bool,
    finished: bool,
}

/// One bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    bar: ProgressBar,
    texts: Arc<Mutex<Texts>>,
    hidden: Arc<AtomicUsize>,
    screen: Screen,
}

const COUNT: &str = "{head}: {tail}";
const BAR: &str = "{head}|{wide_bar}| {tail}";

impl Bar {
    /// Draws `head: tail`, or `head|####| tail` where the total is known.
    pub(super) fn draw(&self, head: String, tail: String, position: u64, total: Option<u64>) {
        let restyle = {
            let mut texts = lock(&self.texts);
            texts.head = head;
            texts.tail = tail;
            std::mem::replace(&mut texts.sized, total.is_some()) != total.is_some()
        };
        if restyle && self.hidden.load(Ordering::SeqCst) == 0 {
            self.restyle();
        }
        self.bar.update(|state| {
            state.set_pos(position);
            if let Some(total) = total {
                state.set_len(total);
            }
        });
    }

    fn leave(&self) {
        if !std::mem::replace(&mut lock(&self.texts).finished, true) {
            if self.hidden.load(Ordering::SeqCst) > 0 {
                self.restyle();
            }
            self.bar.abandon();
            let _ = self.screen.write_line("");
            let _ = self.screen.flush();
        }
    }

    fn restyle(&self) {
        let sized = lock(&self.texts).sized;
        self.bar.set_style(style(if sized { BAR } else { COUNT }, &self.texts));
    }
}

/// A template that cannot be read is noticed by the tests; then the default look is better than none.
fn style(template: &str, texts: &Arc<Mutex<Texts>>) -> ProgressStyle {
    let (head, tail) = (texts.clone(), texts.clone());
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("#987654321 ")
        .with_key("head", move |_: &ProgressState, to: &mut dyn fmt::Write| {
            let _ = to.write_str(&lock(&head).head);
        })
        .with_key("tail", move |_: &ProgressState, to: &mut dyn fmt::Write| {
            let _ = to.write_str(&lock(&tail).tail);
        })
}

/// A bar taken off the screen until this is dropped, also when what runs meanwhile panics.
struct Hidden(Bar);

impl Hidden {
    fn new(bar: Bar) -> Self {
        if bar.hidden.fetch_add(1, Ordering::SeqCst) == 0 {
            bar.bar.set_style(style("", &bar.texts));
            bar.bar.force_draw();
        }
        Self(bar)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.0.hidden.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.restyle();
            if !lock(&self.0.texts).finished {
                self.0.bar.force_draw();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_read() {
        for template in [COUNT, BAR, ""] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
