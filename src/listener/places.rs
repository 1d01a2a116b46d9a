//! The places of a port's connections: a bounded number, and a few more for those that are told so.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::SURPLUS_CONNECTIONS;

/// A bounded number of connections, counted over all threads.
#[derive(Clone, Debug)]
pub struct Places {
    regular: Arc<Semaphore>,
    surplus: Arc<Semaphore>,
    max_connections: u32,
}

/// Which places a connection has one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Those of the connections that are served.
    Regular,
    /// Those of the connections that are refused.
    Surplus,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    row: Row,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) fn row(&self) -> Row {
        self.row
    }
}

impl Places {
    pub(super) fn new(max_connections: usize) -> Self {
        Self {
            regular: Arc::new(Semaphore::new(max_connections)),
            surplus: Arc::new(Semaphore::new(SURPLUS_CONNECTIONS)),
            max_connections: u32::try_from(max_connections).unwrap_or(u32::MAX),
        }
    }

    /// How many there are, of both rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.max_connections as usize + SURPLUS_CONNECTIONS
    }

    /// A place of either row, the regular one first; `None` if there is not one left.
    pub(super) fn take(&self) -> Option<Place> {
        let of = |row, places: &Arc<Semaphore>| {
            Arc::clone(places).try_acquire_owned().ok().map(|_permit| Place { row, _permit })
        };
        of(Row::Regular, &self.regular).or_else(|| of(Row::Surplus, &self.surplus))
    }

    /// Completes once no connection is left. Only of use when no more are accepted.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn all_free(&self) {
        let _ = self.regular.acquire_many(self.max_connections).await;
        let _ = self.surplus.acquire_many(u32::try_from(SURPLUS_CONNECTIONS).unwrap_or(u32::MAX)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, Row, SURPLUS_CONNECTIONS};

    #[test]
    fn places_run_out_one_row_after_the_other() {
        let places = Places::new(2);
        let taken: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        let rows: Vec<_> = taken.iter().map(super::Place::row).collect();
        assert_eq!(rows[..2], [Row::Regular, Row::Regular]);
        assert_eq!(rows[2..], [Row::Surplus; SURPLUS_CONNECTIONS]);
        assert_eq!(rows.len(), places.count());
        drop(taken);
        assert_eq!(places.take().map(|place| place.row()), Some(Row::Regular));
    }
}
