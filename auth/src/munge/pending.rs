use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::MungeError;
use crate::helpers::Task;

/// The result to come of a call to `munged`: a future for any executor, or [`wait`](Self::wait) on
/// a thread.
///
/// The call is under way already. It is ready at its deadline at the latest, also if the daemon
/// hangs; no executor's timer is needed. Dropping it abandons the call: not sent if no helper has
/// taken it, otherwise its result is wiped and dropped.
///
/// # Panics
/// When polled again after it was ready.
#[must_use = "the result is lost when this is dropped"]
pub struct Pending<T: Send + 'static> {
    state: State<T>,
}

enum State<T: Send + 'static> {
    Started(Task<Result<T, MungeError>>, Arc<Path>),
    Refused(MungeError),
    Done,
}

impl<T: Send + 'static> Pending<T> {
    pub(super) fn started(task: Task<Result<T, MungeError>>, socket: Arc<Path>) -> Self {
        Self { state: State::Started(task, socket) }
    }

    pub(super) fn refused(error: MungeError) -> Self {
        Self { state: State::Refused(error) }
    }

    /// Blocks this thread until the call is over, until its deadline at most.
    ///
    /// Not for threads of an async runtime or for progress threads.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// If it was polled to its end before.
    pub fn wait(self) -> Result<T, MungeError> {
        match self.state {
            State::Started(task, socket) => match task.wait() {
                Ok(result) => result,
                Err(error) => Err(MungeError::from_helper(error, &socket)),
            },
            State::Refused(error) => Err(error),
            State::Done => panic!("waited for after it was ready"),
        }
    }
}

impl<T: Send + 'static> Future for Pending<T> {
    type Output = Result<T, MungeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut self.get_mut().state;
        if let State::Started(task, socket) = state {
            let result = match Pin::new(task).poll(context) {
                Poll::Ready(Ok(result)) => result,
                Poll::Ready(Err(error)) => Err(MungeError::from_helper(error, socket)),
                Poll::Pending => return Poll::Pending,
            };
            *state = State::Done;
            return Poll::Ready(result);
        }
        match std::mem::replace(state, State::Done) {
            State::Refused(error) => Poll::Ready(Err(error)),
            _ => panic!("polled after it was ready"),
        }
    }
}

// Nothing in it is pinned.
impl<T: Send + 'static> Unpin for Pending<T> {}

impl<T: Send + 'static> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
