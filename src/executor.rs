//! Where hyper runs the tasks of an HTTP/2 connection: on the thread that the connection is on.

use std::future::Future;

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Spawns on the current [`tokio::runtime::LocalRuntime`], and must be used within one.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
