use super::*;
use indicatif::InMemoryTerm;
use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock that is set by hand.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn set(&self, seconds: f64) {
        self.0.store((seconds * 1e3).round() as u64, Ordering::Relaxed);
    }
    fn clock(&self) -> Box<dyn Fn() -> Duration + Send + Sync> {
        let time = self.0.clone();
        Box::new(move || Duration::from_millis(time.load(Ordering::Relaxed)))
    }
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn screen(width: u16) -> (InMemoryTerm, Hand, Progress) {
    let (term, hand) = (InMemoryTerm::new(12, width), Hand::default());
    let progress = Progress::on_terminal_with_clock(term.clone(), hand.clock());
    (term, hand, progress)
}

#[test]
fn a_pass_of_unknown_length_on_the_screen() {
    let (term, hand, progress) = screen(80);
    let mut pass = progress.start("Training (1)", None, 0);
    assert_eq!(term.contents(), "Training (1): 0it [00:00, ?it/s]");
    pass.advance(100);
    hand.set(0.5);
    assert!(!pass.is_due());
    pass.tick();
    assert!(pass.is_due());
    pass.set_message(loss_text(0.5));
    assert!(!pass.is_due());
    assert_eq!(term.contents(), "Training (1): 101it [00:00, 202.00it/s, loss=0.500000]");
    pass.advance(971);
    hand.set(5.463);
    pass.set_message(loss_text(0.039297));
    pass.finish();
    assert_eq!(term.contents(), "Training (1): 1072it [00:05, 196.23it/s, loss=0.039297]");
}

#[test]
fn a_pass_of_known_length_fills_its_bar_to_the_width_of_the_screen() {
    for width in [80u16, 100, 132] {
        let (term, hand, progress) = screen(width);
        let mut pass = progress.start("Training (2)", Some(1072), 0);
        pass.advance(536);
        hand.set(2.0);
        pass.tick();
        pass.set_message(loss_text(0.1));
        let half = term.contents();
        assert!(half.starts_with("Training (2):  50%|###"), "{half}");
        assert!(half.ends_with(" | 537/1072 [00:02<00:01, 268.50it/s, loss=0.100000]"), "{half}");
        assert_eq!(half.len(), usize::from(width));

        pass.advance(535);
        hand.set(4.7316);
        pass.set_message(loss_text(0.040465));
        pass.finish();
        let tail = "| 1072/1072 [00:04<00:00, 226.54it/s, loss=0.040465]";
        let head = "Training (2): 100%|";
        let bar = "#".repeat(usize::from(width) - head.len() - tail.len());
        assert_eq!(term.contents(), format!("{head}{bar}{tail}"));
    }
}

#[test]
fn a_length_learnt_on_the_way_turns_the_count_into_a_bar() {
    let (term, hand, progress) = screen(80);
    let mut pass = progress.start("Training (1)", None, 0);
    pass.set_total(Some(4));
    hand.set(1.0);
    pass.tick();
    pass.set_message("");
    assert!(term.contents().starts_with("Training (1):  25%|##"), "{}", term.contents());
    pass.advance(9);
    hand.set(2.0);
    pass.finish();
    assert_eq!(term.contents(), "Training (1): 10it [00:02, 5.00it/s]");
}

#[test]
fn passes_and_lines_stand_below_each_other() {
    let (term, hand, progress) = screen(60);
    let mut pass = progress.start("Training (1)", None, 0);
    pass.advance(10);
    progress.line("step=10 loss=0.5");
    hand.set(1.0);
    pass.finish();
    let mut pass = progress.start("Validation", None, 0);
    pass.advance(5);
    progress.suspend(|| progress.line("nested"));
    hand.set(3.0);
    drop(pass);
    progress.metrics([("loss", 0.07041411), ("accuracy", 0.9779)]);
    let expected = [
        "step=10 loss=0.5",
        "Training (1): 10it [00:01, 10.00it/s]",
        "nested",
        "Validation: 5it [00:02, 2.50it/s]",
        "accuracy=0.9779 loss=0.07041411",
    ];
    assert_eq!(term.contents(), expected.join("\n"));
}

#[test]
fn a_suspended_bar_is_away_and_comes_back() {
    let (term, _hand, progress) = screen(60);
    let pass = progress.start("Training (1)", Some(10), 0);
    progress.suspend(|| assert_eq!(term.contents(), ""));
    assert!(term.contents().starts_with("Training (1):   0%|"), "{}", term.contents());
    drop(pass);
}

#[test]
fn the_rate_does_not_count_what_was_done_before() {
    let (term, hand, progress) = screen(80);
    let mut pass = progress.start("Training (2)", None, 500);
    pass.advance(20);
    hand.set(2.0);
    pass.finish();
    assert_eq!(term.contents(), "Training (2): 520it [00:02, 10.00it/s]");
}

#[test]
fn at_most_ten_redraws_a_second() {
    let (_term, hand, progress) = screen(80);
    let mut pass = progress.start("Training (1)", None, 0);
    let mut due = 0;
    for step in 1..=1000 {
        hand.set(f64::from(step) * 1e-3);
        pass.tick();
        if pass.is_due() {
            due += 1;
            pass.set_message("loss=1");
        }
    }
    assert_eq!(due, 10);
}

#[test]
fn narrow_screens_and_hostile_labels_do_no_harm() {
    for width in [1, 2, 7, 20] {
        let (_term, hand, progress) = screen(width);
        let mut pass = progress.start("a\n\x1b[2Jb\tc", Some(0), u64::MAX - 1);
        hand.set(1.0);
        pass.advance(7);
        pass.set_message("x\ny");
        pass.set_total(Some(u64::MAX));
        pass.finish();
    }
}

#[test]
fn plain_lines_come_at_both_ends_and_every_ten_seconds() {
    let (paper, hand) = (Paper::default(), Hand::default());
    let progress = Progress::plain_with_clock(paper.clone(), hand.clock());
    let mut pass = progress.start("Training (1)", None, 0);
    for step in 1..=250 {
        hand.set(f64::from(step) * 0.1);
        pass.tick();
        if pass.is_due() {
            pass.set_message(loss_text(f64::from(step)));
        }
    }
    pass.finish();
    let pass = progress.start("Validation", Some(8), 2);
    hand.set(26.0);
    drop(pass);
    progress.metrics([("loss", 0.5)]);
    let expected = "\
Training (1): started
Training (1): 100it [00:10, 10.00it/s, loss=100.00000]
Training (1): 200it [00:20, 10.00it/s, loss=200.00000]
Training (1): 250it [00:25, 10.00it/s, loss=200.00000]
Validation: started after step 2 of 8
Validation:  25% 2/8 [00:01<?, ?it/s]
loss=0.5
";
    assert_eq!(paper.text(), expected);
}

#[derive(Clone, Default)]
struct Closed(Arc<AtomicUsize>);

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_tried_once() {
    let closed = Closed::default();
    let progress = Progress::plain(closed.clone());
    let mut pass = progress.start("Training (1)", None, 0);
    pass.tick();
    pass.finish();
    progress.line("hello");
    assert_eq!(closed.0.load(Ordering::Relaxed), 1);
    assert!(progress.output.trouble.is_broken());
}

#[derive(Debug, Clone, Default)]
struct ClosedTerm(Arc<AtomicUsize>);

impl ClosedTerm {
    fn fail(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

impl indicatif::TermLike for ClosedTerm {
    fn width(&self) -> u16 {
        0
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        self.fail()
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        self.fail()
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        self.fail()
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        self.fail()
    }
    fn write_line(&self, _: &str) -> io::Result<()> {
        self.fail()
    }
    fn write_str(&self, _: &str) -> io::Result<()> {
        self.fail()
    }
    fn clear_line(&self) -> io::Result<()> {
        self.fail()
    }
    fn flush(&self) -> io::Result<()> {
        self.fail()
    }
}

#[test]
fn a_closed_terminal_is_tried_once_and_asks_for_no_more_losses() {
    let closed = ClosedTerm::default();
    let progress = Progress::on_terminal(closed.clone());
    let mut pass = progress.start("Training (1)", Some(10), 0);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(101));
        pass.tick();
        assert!(!pass.is_due());
    }
    pass.finish();
    progress.line("hello");
    assert_eq!(closed.0.load(Ordering::Relaxed), 1);
}

#[test]
fn nothing_is_due_without_progress() {
    let progress = Progress::new(ProgressMode::Off);
    let mut pass = progress.start("Training (1)", Some(10), 0);
    std::thread::sleep(Duration::from_millis(110));
    pass.tick();
    assert!(!pass.is_due());
}

#[test]
fn a_step_with_nothing_due_costs_next_to_nothing() {
    let (_term, _hand, _) = screen(80);
    let progress = Progress::on_terminal(InMemoryTerm::new(4, 80));
    let mut pass = progress.start("Training (1)", None, 0);
    // The best of several rounds: the machine does other things too.
    fn best(mut step: impl FnMut()) -> u128 {
        let round = || {
            let start = Instant::now();
            (0..1000).for_each(|_| step());
            start.elapsed().as_nanos() / 1000
        };
        std::iter::repeat_with(round).take(50).min().unwrap()
    }
    let step = best(|| {
        pass.tick();
        std::hint::black_box(pass.is_due());
    });
    // A step reads the clock once, which takes some tens of nanoseconds, and a microsecond where that asks the system.
    let clock = best(|| {
        std::hint::black_box(Instant::now());
    });
    eprintln!("{step} ns a step, {clock} ns a reading of the clock");
    assert!(step < 300.max(4 * clock), "{step} ns a step, {clock} ns a reading of the clock");
}

#[test]
fn progress_moves_between_threads() {
    fn sendable<T: Send + 'static>() {}
    sendable::<Progress>();
    sendable::<Pass>();
}
