//! The body of a request on its way to the API, kept for a while in case it must go out again.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::{
    body::{BodyError, patiently},
    expect::{Gate, Gatekeeper, Passage, Withheld},
    replay::{Copy, ReplayMemory},
};
use crate::{
    clock::{Clock, Moment},
    listener::RequestBody,
    metrics::HttpCounts,
    patience::Patience,
};

/// A request's body on its way to the API. What there is of it is boxed, as most requests have none, and all are passed
/// around.
#[derive(Debug)]
pub(super) enum Upload {
    Nothing,
    Streamed(Box<Streamed>),
    Kept(Box<Kept>),
}

/// As it was kept when it was first sent, and as it was framed.
#[derive(Debug)]
pub(super) struct Kept {
    body: Full<Bytes>,
    is_chunked: bool,
}

/// As the caller sends it, once the gate is open.
#[derive(Debug)]
pub(super) struct Streamed {
    incoming: RequestBody,
    patience: Patience,
    gate: Option<Gate>,
    shared: Rc<Shared>,
}

/// What the upload, which belongs to the connection, tells the request that it is part of.
#[derive(Debug)]
pub(super) struct Shared {
    last_moved: Cell<Option<Moment>>,
    /// The API would take more, but the caller has sent no more.
    waits_for_caller: Cell<bool>,
    /// Why the caller's part of it failed.
    fault: Cell<Option<UploadFault>>,
    gatekeeper: Option<Gatekeeper>,
    is_chunked: bool,
    copy: RefCell<Copy>,
    counts: HttpCounts,
    clock: Clock,
}

/// How a caller can fail to send its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadFault {
    /// It stopped.
    Stalled,
    /// It went away, or what it sent makes no sense.
    Broken,
}

impl Upload {
    /// The body, behind a gate if there is one, and a look at what becomes of it.
    pub(super) fn new(
        incoming: RequestBody,
        gate: Option<Gate>,
        idle_timeout: Duration,
        memory: &ReplayMemory,
        counts: &HttpCounts,
        clock: &Clock,
    ) -> (Self, UploadWatch) {
        if incoming.is_end_stream() {
            return (Self::Nothing, UploadWatch::NoBody);
        }
        let shared = Rc::new(Shared {
            last_moved: Cell::new(None),
            waits_for_caller: Cell::new(false),
            fault: Cell::new(None),
            gatekeeper: gate.as_ref().map(Gate::keeper),
            is_chunked: incoming.size_hint().exact().is_none(),
            copy: RefCell::new(Copy::new(memory.clone())),
            counts: counts.clone(),
            clock: clock.clone(),
        });
        let watch = UploadWatch::Body(Rc::clone(&shared));
        (Self::Streamed(Box::new(Streamed { incoming, patience: Patience::new(idle_timeout), gate, shared })), watch)
    }

    /// No body, and not to be sent again.
    pub(super) fn once() -> (Self, UploadWatch) {
        (Self::Nothing, UploadWatch::Once)
    }

    /// Who opens the gate that it waits at.
    pub(super) fn gatekeeper(&self) -> Option<&Gatekeeper> {
        match self {
            Self::Streamed(streamed) => streamed.shared.gatekeeper.as_ref(),
            Self::Nothing | Self::Kept(_) => None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Streamed(streamed) => streamed.poll_frame(cx),
            Self::Kept(kept) => Pin::new(&mut kept.body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Streamed(streamed) => streamed.incoming.is_end_stream(),
            // Even an empty one has its last chunk.
            Self::Kept(kept) => !kept.is_chunked && kept.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
            Self::Kept(kept) if kept.is_chunked => SizeHint::new(),
            Self::Kept(kept) => kept.body.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { incoming, patience, gate, shared } = self;
        if let Some(waiting) = gate {
            match ready!(waiting.poll_passage(cx)) {
                Passage::Free => *gate = None,
                Passage::Unwanted => return Poll::Ready(Some(Err(BodyError::Unwanted))),
            }
        }
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        let frame = patiently(patience, cx, frame, BodyError::Caller);
        shared.waits_for_caller.set(frame.is_pending());
        if let Poll::Ready(frame) = &frame {
            shared.note(frame.as_ref(), incoming.is_end_stream());
        }
        frame
    }
}

impl Shared {
    fn note(&self, frame: Option<&Result<Frame<Bytes>, BodyError>>, ended: bool) {
        self.last_moved.set(Some(self.clock.now()));
        let mut copy = self.copy.borrow_mut();
        match frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => {
                    self.counts.received(data.len());
                    copy.push(data);
                }
                // Trailers are not kept.
                None => copy.give_up(),
            },
            Some(Err(error)) => {
                let stalled = matches!(error, BodyError::Stalled);
                self.fault.set(Some(if stalled { UploadFault::Stalled } else { UploadFault::Broken }));
                copy.give_up();
            }
            None => {}
        }
        if ended || frame.is_none() {
            copy.finish();
        }
    }
}

/// A look at an upload while its owner is the connection to the API.
#[derive(Debug)]
pub(super) enum UploadWatch {
    NoBody,
    /// The request must not be sent again.
    Once,
    Body(Rc<Shared>),
}

impl UploadWatch {
    fn shared(&self) -> Option<&Shared> {
        match self {
            Self::Body(shared) => Some(shared),
            Self::NoBody | Self::Once => None,
        }
    }

    /// When a part of the body was last taken.
    pub(super) fn last_moved(&self) -> Option<Moment> {
        self.shared().and_then(|shared| shared.last_moved.get())
    }

    /// Returns true if it is the caller who keeps the API waiting; how long is bounded by the upload itself.
    pub(super) fn waits_for_caller(&self) -> bool {
        self.shared().is_some_and(|shared| shared.waits_for_caller.get())
    }

    /// Why the body broke off, if it is the caller's fault.
    pub(super) fn fault(&self) -> Option<UploadFault> {
        self.shared().and_then(|shared| shared.fault.get())
    }

    /// The API has answered; see [`Gatekeeper::answered`].
    pub(super) fn answered(&self) -> Option<Withheld> {
        self.shared().and_then(|shared| shared.gatekeeper.as_ref()).and_then(Gatekeeper::answered)
    }

    /// The same body once more; `None` if it has not ended or was not kept whole.
    pub(super) fn again(&self) -> Option<Upload> {
        match self {
            Self::NoBody => Some(Upload::Nothing),
            Self::Once => None,
            Self::Body(shared) => {
                let body = Full::new(shared.copy.borrow().whole()?);
                Some(Upload::Kept(Box::new(Kept { body, is_chunked: shared.is_chunked })))
            }
        }
    }
}
