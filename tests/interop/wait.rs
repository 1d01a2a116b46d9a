//! Waiting for a condition, with a deadline.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Looks until there is a value. An `Err` says what there is instead; the last one is told when time is over.
pub(crate) async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut instead = String::new();
    let found = timeout(within, async {
        loop {
            match look().await {
                Ok(value) => return value,
                Err(other) => instead = other,
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("no {what} within {within:?}, but {instead}"))
}
