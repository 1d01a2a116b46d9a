//! What is to become of each request, drawn from its id alone: both its caller and the API know it.

use std::{cell::RefCell, sync::LazyLock};

/// The longest body.
const LONGEST: u64 = 1 << 20;
/// Of an answer that comes while its caller still writes, which must fit into the buffers on its way.
const LONGEST_EARLY: u64 = 8 * 1024;

/// What all bodies are cut from: no two pieces of it are alike.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dice = Dice::new(0x6d69_7875_7021);
    (0..4 * LONGEST / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
});

/// A stream of random numbers (splitmix64), which a seed makes the same again.
#[derive(Debug)]
pub(super) struct Dice(RefCell<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(RefCell::new(seed))
    }

    fn roll(&self) -> u64 {
        let mut state = self.0.borrow_mut();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.roll() % end
    }

    fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunked,
    /// By the connection's end; answers only.
    Close,
}

/// A body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) framing: Framing,
    length: usize,
    offset: usize,
}

impl Shape {
    fn draw(dice: &Dice) -> Self {
        // Uniform in its logarithm, more or less.
        let length = dice.below((1 << dice.below(21)) + 1) as usize;
        let offset = dice.below(3 * LONGEST) as usize;
        Self { framing: if dice.one_in(2) { Framing::Length } else { Framing::Chunked }, length, offset }
    }

    pub(super) fn bytes(&self) -> &'static [u8] {
        &BLOCK[self.offset..self.offset + self.length]
    }
}

/// How a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// All of it. What was received and not read makes it a reset.
    Close,
    /// The side that writes; what comes is still read.
    HalfClose,
    Reset,
}

/// When a caller goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Never,
    /// After this many bytes of its body, or before its last chunk.
    Upload(usize),
    /// Once all is sent.
    Wait,
    /// After the answer's head, and this many bytes.
    Answer(usize),
}

/// What the API does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Goes away without an answer: once it has the head, or all of the request.
    NoHead {
        after_body: bool,
    },
    /// Goes away within the head of its answer.
    HalfHead,
    /// Goes away after this many bytes of its answer's body, or before its last chunk.
    HalfBody(usize),
    /// Closes the connection after the answer, and may have said so.
    CloseAfter {
        announced: bool,
    },
    /// Answers before it reads the request's body.
    Early,
    /// Answers as early, and goes away without having read the body.
    EarlyClose,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) id: u32,
    pub(super) method: &'static str,
    pub(super) upload: Option<Shape>,
    pub(super) download: Shape,
    pub(super) leave: Leave,
    pub(super) leave_how: How,
    pub(super) fault: Fault,
    pub(super) fault_how: How,
    /// Whether the caller, and the API, takes its time over each piece.
    pub(super) slow_caller: bool,
    pub(super) slow_api: bool,
}

impl Plan {
    pub(super) fn of(seed: u64, id: u32) -> Self {
        let dice = Dice::new(seed ^ (u64::from(id) << 32));
        let method = ["GET", "GET", "GET", "POST", "POST", "PUT", "PUT", "HEAD"][dice.below(8) as usize];
        let has_upload = matches!(method, "POST" | "PUT") || (method == "GET" && dice.one_in(8));
        let upload = has_upload.then(|| Shape::draw(&dice));
        let mut download = Shape::draw(&dice);
        let fault = Self::draw_fault(&dice, method, &mut download);
        let answer = if method == "HEAD" { 0 } else { download.length };
        let leave = Self::draw_leave(&dice, upload, answer);
        let half_close = if dice.one_in(2) { How::HalfClose } else { How::Close };
        let leave_how = if dice.one_in(2) { How::Reset } else { half_close };
        let by_close = download.framing == Framing::Close;
        let fault_how = if by_close || dice.one_in(2) { How::Reset } else { How::Close };
        let (slow_caller, slow_api) = (dice.one_in(30), dice.one_in(30));
        Self { id, method, upload, download, leave, leave_how, fault, fault_how, slow_caller, slow_api }
    }

    fn draw_leave(dice: &Dice, upload: Option<Shape>, answer: usize) -> Leave {
        if !dice.one_in(10) {
            return Leave::Never;
        }
        match (dice.below(3), upload) {
            (0, Some(Shape { framing: Framing::Chunked, length, .. })) => {
                Leave::Upload(dice.below(length as u64 + 1) as usize)
            }
            (0, Some(Shape { length: 1.., .. })) => {
                Leave::Upload(dice.below(upload.map_or(1, |shape| shape.length) as u64) as usize)
            }
            (0 | 1, _) => Leave::Wait,
            _ => Leave::Answer(dice.below(answer as u64 + 1) as usize),
        }
    }

    fn draw_fault(dice: &Dice, method: &str, download: &mut Shape) -> Fault {
        if method != "HEAD" && dice.one_in(10) {
            download.framing = Framing::Close;
        }
        if !dice.one_in(8) {
            return Fault::None;
        }
        match dice.below(7) {
            0 => Fault::NoHead { after_body: dice.one_in(2) },
            1 => Fault::HalfHead,
            2 if method != "HEAD" => {
                download.length = download.length.max(1);
                Fault::HalfBody(dice.below(download.length as u64) as usize)
            }
            3 | 4 => {
                download.length = download.length.min(LONGEST_EARLY as usize);
                if dice.one_in(2) { Fault::Early } else { Fault::EarlyClose }
            }
            _ => Fault::CloseAfter { announced: dice.one_in(2) },
        }
    }

    /// Whether a whole answer would be a wrong one.
    pub(super) fn has_no_answer(&self) -> bool {
        match self.fault {
            Fault::NoHead { .. } | Fault::HalfHead | Fault::HalfBody(_) => true,
            Fault::None | Fault::CloseAfter { .. } | Fault::Early | Fault::EarlyClose => {
                // Who left before the end of a request cannot have it answered, but by an API in a hurry.
                matches!(self.leave, Leave::Upload(_)) && !self.answers_early()
            }
        }
    }

    pub(super) fn answers_early(&self) -> bool {
        matches!(self.fault, Fault::Early | Fault::EarlyClose)
    }

    /// Whether nothing of it may fail: neither side breaks off, and the sidecar may send it again when
    /// an idle connection turns out to be closed.
    pub(super) fn must_be_answered(&self) -> bool {
        self.is_whole() && self.upload.is_none() && matches!(self.method, "GET" | "HEAD")
    }

    /// Whether neither side breaks off.
    pub(super) fn is_whole(&self) -> bool {
        self.leave == Leave::Never && !self.has_no_answer() && self.fault != Fault::EarlyClose
    }
}

/// A number that two bodies do not share.
pub(super) fn digest(bytes: &[u8]) -> String {
    let mut state = bytes.len() as u64;
    let mut add = |word: u64| state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        add(u64::from_le_bytes(word.try_into().expect("8 bytes")));
    }
    for byte in words.remainder() {
        add(u64::from(*byte));
    }
    format!("{state:016x}")
}
