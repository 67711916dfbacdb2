//! The check before the first write: can this process load policy, and if not, why?

use std::fs::{File, OpenOptions, read_to_string};
use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Kernel, LABELS};
use crate::error::Error;

/// The bit of `CAP_MAC_ADMIN` in a capability set (include/uapi/linux/capability.h).
const MAC_ADMIN: u32 = 33;

impl Kernel {
    /// Whether this process can load policy. Writes nothing.
    ///
    /// # Errors
    /// `Error::Node`: the missing right or file, and the way to get it.
    pub(crate) fn preflight(&self) -> Result<(), Error> {
        self.present()?;
        let own = self.own_folder();
        initial_namespace(&own)?;
        mac_admin(&own)?;
        if self.parameter("lock_policy").as_deref() == Some("Y") {
            let file = self.parameter_file("lock_policy");
            return Err(Error::Node(format!(
                "this kernel's AppArmor policy is locked until the next boot ({file} is Y): boot without that setting"
            )));
        }
        for file in [".load", ".replace", ".remove"] {
            self.writable(&self.apparmor.join(file))?;
        }
        self.readable()
    }

    /// Whether this process can read the profiles in force.
    ///
    /// # Errors
    /// `Error::Node`: the missing right or file, and the way to get it.
    pub(crate) fn preflight_read(&self) -> Result<(), Error> {
        self.present()?;
        self.readable()
    }

    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let value = read_to_string(self.parameter_file(name)).ok()?;
        Some(value.trim().to_owned())
    }

    fn parameter_file(&self, name: &str) -> String {
        let folder = self.settings.root.join("sys/module/apparmor/parameters");
        folder.join(name).display().to_string()
    }

    /// Whether this kernel runs AppArmor, and securityfs is mounted.
    fn present(&self) -> Result<(), Error> {
        let is_mounted = self.apparmor.is_dir();
        let why = match self.parameter("enabled").as_deref() {
            Some("Y") | None if is_mounted => return Ok(()),
            Some("Y") => {
                let securityfs = self.settings.securityfs.display();
                return Err(Error::Node(format!(
                    "{securityfs} has no folder apparmor: on a host run `mount -t securityfs securityfs {securityfs}`; in a container mount the host's /sys/kernel/security by hostPath and give its path with --securityfs"
                )));
            }
            Some(_) => "is switched off",
            None => "is missing",
        };
        let file = self.parameter_file("enabled");
        Err(Error::Node(format!(
            "AppArmor {why} in this kernel ({file}): boot with the kernel parameters `apparmor=1 security=apparmor`, or with apparmor in `lsm=`"
        )))
    }

    fn readable(&self) -> Result<(), Error> {
        let file = self.apparmor.join("profiles");
        let Err(error) = File::open(&file).and_then(|mut open| open.read(&mut [0; 1])) else {
            return Ok(());
        };
        let file = file.display();
        if error.kind() != PermissionDenied {
            let at = self.settings.securityfs.display();
            let line =
                format!("cannot read {file} ({error}): is {at} a securityfs of this kernel?");
            return Err(Error::Node(line));
        }
        if !rustix::process::geteuid().is_root() {
            let line = format!("only root can read {file}: run as root");
            return Err(Error::Node(line));
        }
        initial_namespace(&self.own_folder())?;
        let cause = self.cause_of_denial();
        Err(Error::Node(format!("root cannot read {file}: {cause}")))
    }

    fn writable(&self, file: &Path) -> Result<(), Error> {
        let Err(error) = OpenOptions::new().write(true).open(file) else {
            return Ok(());
        };
        let file = file.display();
        Err(Error::Node(match error.kind() {
            PermissionDenied => format!("cannot write {file}: {}", self.cause_of_denial()),
            ReadOnlyFilesystem => format!(
                "{file} is mounted read-only: mount it writable (`readOnly: false` on the volumeMount)"
            ),
            _ => format!("cannot open {file} ({error}): this kernel loads no policy there"),
        }))
    }

    fn cause_of_denial(&self) -> String {
        let files = LABELS.map(|label| self.own_folder().join(label));
        let label = files.iter().find_map(|file| read_to_string(file).ok());
        match label.unwrap_or_default().trim() {
            "unconfined" | "" => "not denied by AppArmor, since no profile confines this process: check other security modules and the mount".to_owned(),
            label => format!("this process' own AppArmor profile, {label}, denies files below /sys: mount securityfs at another path, such as /host/securityfs, and give it with --securityfs"),
        }
    }

    /// This process' own folder: in the settings' proc where that shows this process, which another pid
    /// namespace's does not.
    fn own_folder(&self) -> PathBuf {
        let own = self.settings.proc.join("self");
        match own.join("status").exists() {
            true => own,
            false => PathBuf::from("/proc/self"),
        }
    }
}

/// The initial user namespace maps all ids to themselves (`user_namespaces(7)`).
fn initial_namespace(own: &Path) -> Result<(), Error> {
    let map = read_to_string(own.join("uid_map")).unwrap_or_default();
    let fields = map.split_whitespace();
    // Without the file, the kernel has no user namespaces.
    if map.is_empty() || fields.eq(["0", "0", "4294967295"]) {
        return Ok(());
    }
    Err(Error::Node("this process is in a user namespace, whose root may not load policy: run without rootless mode, user-namespace remapping, or `hostUsers: false`".to_owned()))
}

fn mac_admin(own: &Path) -> Result<(), Error> {
    let file = own.join("status");
    let purpose = format!("read {}", file.display());
    let status = read_to_string(&file).map_err(Error::io(purpose))?;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap_or_default().trim(), 16);
    if effective.is_ok_and(|set| set >> MAC_ADMIN & 1 == 1) {
        return Ok(());
    }
    Err(Error::Node("this process lacks CAP_MAC_ADMIN: run as root, in a container with `capabilities: {add: [MAC_ADMIN]}`".to_owned()))
}
