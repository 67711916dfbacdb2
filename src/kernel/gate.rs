//! The query of a process without privileges: is a profile loaded?

use std::path::Path;

use fs_err as fs;
use rustix::io::Errno;

use super::LABELS;
use crate::error::Error;

/// Asks the kernel whether this process might change to `name`: it answers ENOENT where no such
/// profile is loaded, and success or EACCES where one is. A question leaves an audit record, except
/// where the change is allowed.
///
/// # Errors
/// The kernel has no AppArmor, or this process' own profile keeps it from asking.
pub(crate) fn is_loaded(name: &str) -> Result<bool, Error> {
    let places = LABELS.map(|label| Path::new("/proc/self").join(label));
    let place = places.iter().find(|place| place.exists());
    let place = place.unwrap_or(&places[1]);
    let file = fs::OpenOptions::new().write(true).open(place).map_err(|error| {
        Error::Node(format!("cannot query the kernel for loaded profiles ({error}): run this container under RuntimeDefault or Unconfined, or with --from kernel"))
    })?;
    match rustix::io::write(&file, format!("permprofile {name}").as_bytes()) {
        Ok(_) | Err(Errno::ACCESS | Errno::PERM) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::Node(format!(
            "this kernel does not answer AppArmor queries ({error}): boot the node with the kernel parameters `apparmor=1 security=apparmor`"
        ))),
    }
}
