//! `forebay top`: what a running cache does, in a terminal.
//!
//! Promises: it asks for `/api/now` and for nothing else, a few times a second at most, so the cache does not feel it; it
//! shows what was said there and what follows from two readings; the terminal is afterwards as it was before, also when it is
//! ended by a signal. What is asked for is waited for on a thread of its own, so a key is obeyed at once.
//!
//! `reading` is what is read, `history` what follows from it, `frame` what it looks like.

mod frame;
mod history;
mod reading;

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue, terminal};
use forebay::{Error, ErrorKind, Result};
use frame::{Line, Tone};
use history::History;
use reading::Reading;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::http::{ADDRESS_VARIABLE, Address};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often keys and signals are looked for.
const TURN: Duration = Duration::from_millis(100);
/// The width where there is no terminal.
const COLUMNS: usize = 80;

/// Show what a running cache does, live
#[derive(Debug, clap::Args)]
#[command(after_help = KEYS)]
pub(crate) struct TopArgs {
    /// Where the cache shows itself: what its key `http_listen` says. Without it what `FOREBAY_HTTP_LISTEN` says, or 9180
    #[arg(value_name = "ADDRESS")]
    address: Option<Address>,

    /// Print it once, as plain text, and end
    #[arg(long)]
    once: bool,

    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
}

const KEYS: &str = "\
The cache needs http_listen. From elsewhere: ssh -L 9180:127.0.0.1:9180 host. q or Ctrl-C ends it.

Bytes in and out are of the last three seconds, hit rate and times of the last minute. With --once, two readings are
taken; rates are of what is between them, and times of all since the cache was started. COLUMNS says how wide it is to be
where the output is no terminal. NO_COLOR is obeyed.

Exit code: 0, or 2 if nothing answers there.";

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.2..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds, from 0.2 to 3600".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &TopArgs, out: &mut dyn Write) -> Result<()> {
    let address = args.address.clone().map_or_else(Address::of_surroundings, Ok)?;
    if args.once {
        let mut history = History::new(read(&address)?, true);
        thread::sleep(args.interval);
        history.note(read(&address)?);
        let text = frame::text(&frame::frame(&history, &address.to_string(), columns()));
        return out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the result", error));
    }
    if !io::stdout().is_terminal() {
        let message = "the output is no terminal; --once prints it as plain text";
        return Err(Error::new(ErrorKind::Argument, message));
    }
    let history = History::new(read(&address)?, false);
    live(&address, history, args.interval).map_err(|error| Error::io("using the terminal", error))
}

/// What the cache says.
fn read(address: &Address) -> Result<Reading> {
    let answer = address.get("/api/now", PATIENCE)?;
    if answer.status != 200 {
        return Err(Error::new(ErrorKind::Closed, format!("{address} says: {}", answer.said())));
    }
    let unlike = |why: &str| {
        let message = format!(
            "what answers at {address} is no cache of Forebay: {why}; name what http_listen names, or {ADDRESS_VARIABLE}"
        );
        Error::new(ErrorKind::Format, message)
    };
    let now: Reading = serde_json::from_str(&answer.body).map_err(|error| unlike(&error.to_string()))?;
    if now.version.is_empty() { Err(unlike("it says no version")) } else { Ok(now) }
}

/// The width of what is printed.
fn columns() -> usize {
    let of_terminal = || io::stdout().is_terminal().then(terminal::size)?.ok();
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let columns = of_terminal().map(|(columns, _)| usize::from(columns)).or(said).unwrap_or(COLUMNS);
    columns.clamp(1, 1000)
}

/// Shows it until somebody has seen enough.
fn live(address: &Address, mut history: History, interval: Duration) -> io::Result<()> {
    let ended = Ended::listen()?;
    let mut screen = Screen::enter()?;
    let readings = readings(address.clone(), interval)?;
    let mut trouble = None;
    let mut is_new = true;
    loop {
        if is_new {
            screen.show(&history, address, trouble.as_deref())?;
        }
        let (wanted, is_other_size) = wanted()?;
        if wanted == Wanted::End || ended.is_so() {
            return Ok(());
        }
        is_new = is_other_size;
        match readings.try_recv() {
            Ok(Ok(now)) => {
                history.note(now);
                trouble = None;
            }
            Ok(Err(error)) => trouble = Some(format!("{error}; this is what it said last")),
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the thread that asks has died")),
        }
        is_new = true;
    }
}

/// What is said from now on. Who lets go of it ends the thread that asks.
fn readings(address: Address, interval: Duration) -> io::Result<Receiver<Result<Reading>>> {
    let (told, readings) = sync_channel(1);
    let ask = move || {
        let mut next = Instant::now() + interval;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = Instant::now() + interval;
            if told.send(read(&address)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("forebay-top".into()).spawn(ask)?;
    Ok(readings)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    End,
}

/// What was typed, and whether the terminal has another size; waits a moment for it.
fn wanted() -> io::Result<(Wanted, bool)> {
    let mut is_other_size = false;
    if !event::poll(TURN)? {
        return Ok((Wanted::Nothing, false));
    }
    loop {
        match event::read()? {
            Event::Key(key) => match key.code {
                KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok((Wanted::End, is_other_size)),
                KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok((Wanted::End, is_other_size));
                }
                _ => {}
            },
            Event::Resize(..) => is_other_size = true,
            _ => {}
        }
        if !event::poll(Duration::ZERO)? {
            return Ok((Wanted::Nothing, is_other_size));
        }
    }
}

/// Whether a signal wants it to end.
struct Ended {
    is_so: Arc<AtomicBool>,
    signals: Vec<SigId>,
}

impl Ended {
    fn listen() -> io::Result<Self> {
        let mut ended = Self { is_so: Arc::default(), signals: Vec::new() };
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            ended.signals.push(signal_hook::flag::register(signal, Arc::clone(&ended.is_so))?);
        }
        Ok(ended)
    }

    fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Relaxed)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        for signal in self.signals.drain(..) {
            signal_hook::low_level::unregister(signal);
        }
    }
}

/// The terminal, which is as it was when this is dropped.
struct Screen {
    has_colour: bool,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        enable_raw_mode()?;
        // From here on there is something to be put right.
        let screen = Self { has_colour: !no_color };
        execute!(io::stdout(), EnterAlternateScreen, DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }

    /// Draws it all, in one piece.
    fn show(&mut self, history: &History, address: &Address, trouble: Option<&str>) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let width = usize::from(columns).max(1);
        let mut lines = trouble.map_or_else(Vec::new, |words| frame::trouble(words, width));
        lines.extend(frame::frame(history, &address.to_string(), width));
        // What does not fit is what stands last: the smallest namespaces.
        lines.truncate(usize::from(rows));
        let mut out = Vec::new();
        queue!(out, BeginSynchronizedUpdate)?;
        for (row, line) in (0..rows).zip(lines.iter().map(Some).chain(std::iter::repeat(None))) {
            // Behind a line that fills it, its last place would be cleared.
            queue!(out, cursor::MoveTo(0, row), Clear(ClearType::UntilNewLine))?;
            line.map_or(Ok(()), |line| self.draw(line, &mut out))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        let mut terminal = io::stdout().lock();
        terminal.write_all(&out)?;
        terminal.flush()
    }

    fn draw(&self, line: &Line, out: &mut Vec<u8>) -> io::Result<()> {
        for span in line {
            match span.tone {
                Tone::Plain => {}
                Tone::Title => queue!(out, SetAttribute(Attribute::Bold))?,
                Tone::Soft => queue!(out, SetAttribute(Attribute::Dim))?,
                Tone::Good => self.colour(Color::DarkGreen, out)?,
                Tone::Warning => self.colour(Color::DarkYellow, out)?,
                Tone::Bad => self.colour(Color::DarkRed, out)?,
            }
            queue!(out, Print(&span.text), SetAttribute(Attribute::Reset))?;
        }
        Ok(())
    }

    fn colour(&self, colour: Color, out: &mut Vec<u8>) -> io::Result<()> {
        if self.has_colour { queue!(out, SetForegroundColor(colour)) } else { Ok(()) }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Each whatever became of the others.
        let _ = execute!(io::stdout(), cursor::Show, EnableLineWrap, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
