//! The Kubernetes API: one client for everything that asks it or tells it something.
//!
//! `source::kubernetes` reads `ConfigMaps` by it. Here is what the node's side does: `events`
//! says what a pass did, `taint` opens a new node, `pods` tells which profiles pods name.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod encoding;
pub(crate) mod events;
pub(crate) mod failure;
pub(crate) mod object;
pub(crate) mod pods;
pub(crate) mod resource;
pub(crate) mod taint;

#[cfg(test)]
pub(crate) mod server;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use self::access::Access;
use self::client::Client;
use crate::error::Error;

/// The way to the API server, for one pass: token and certificates are read at the first use,
/// connections are shared.
#[derive(Clone)]
pub(crate) struct Api(Rc<Lazy>);

struct Lazy {
    access: Access,
    client: RefCell<Option<Client>>,
}

impl Api {
    pub(crate) fn new(access: Access) -> Self {
        Self(Rc::new(Lazy {
            access,
            client: RefCell::new(None),
        }))
    }

    /// The client; after `deadline` it waits for nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong setting, [`Error::Source`] for a file that cannot be used.
    pub(crate) fn until(&self, deadline: Instant) -> Result<Client, Error> {
        let mut client = self.0.client.borrow_mut();
        let client = match &mut *client {
            Some(client) => client,
            none => none.insert(Client::new(&self.0.access)?),
        };
        Ok(client.until(deadline))
    }
}
