//! Whether this process can load policy, found out before anything is touched.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use fs_err as fs;

use super::{Kernel, libc_nonblock};
use crate::error::Error;

/// The bit of `CAP_MAC_ADMIN` (linux/capability.h).
const MAC_ADMIN: u32 = 33;

impl Kernel {
    /// Everything that loading needs.
    ///
    /// # Errors
    /// The first thing that is missing, with the way to get it.
    pub(crate) fn preflight(&self) -> Result<(), Error> {
        self.enabled()?;
        self.initial_user_namespace()?;
        self.capable()?;
        self.unlocked()?;
        self.mounted()?;
        self.writable()
    }

    /// What reading needs.
    ///
    /// # Errors
    /// The first thing that is missing, with the way to get it.
    pub(crate) fn preflight_read(&self) -> Result<(), Error> {
        self.enabled()?;
        self.mounted()?;
        self.readable()
    }

    fn enabled(&self) -> Result<(), Error> {
        let path = self.root.join("sys/module/apparmor/parameters/enabled");
        match fs::read_to_string(path).as_deref().map(str::trim) {
            Ok("Y") => Ok(()),
            _ => Err(Error::Node(
                "AppArmor is not enabled in this node's kernel: boot it with the kernel parameters \
                 apparmor=1 security=apparmor (or lsm=...,apparmor), and see that the kernel has it built in"
                    .into(),
            )),
        }
    }

    /// This process's own files of proc; those of `--proc` are for other process numbers.
    fn own(&self, file: &str) -> PathBuf {
        let here = self.root.join("proc/self");
        let base = if here.is_dir() {
            here
        } else {
            "/proc/self".into()
        };
        base.join(file)
    }

    fn initial_user_namespace(&self) -> Result<(), Error> {
        let Ok(map) = fs::read_to_string(self.own("uid_map")) else {
            return Ok(());
        };
        let numbers: Vec<&str> = map.split_whitespace().collect();
        if numbers == ["0", "0", "4294967295"] {
            return Ok(());
        }
        Err(Error::Node(
            "this process is in a user namespace of its own, from which the kernel takes no policy: run it \
             rootful, and in a pod without hostUsers: false"
                .into(),
        ))
    }

    fn capable(&self) -> Result<(), Error> {
        let status = fs::read_to_string(self.own("status"))
            .map_err(Error::io("read this process's own capabilities"))?;
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        if effective.is_some_and(|bits| bits & (1 << MAC_ADMIN) != 0) {
            return Ok(());
        }
        Err(Error::Node(
            "this process lacks the capability MAC_ADMIN, without which the kernel takes no policy: run it \
             as root, and in a container with securityContext.capabilities.add: [MAC_ADMIN]"
                .into(),
        ))
    }

    fn unlocked(&self) -> Result<(), Error> {
        let path = self.root.join("sys/module/apparmor/parameters/lock_policy");
        match fs::read_to_string(path).as_deref().map(str::trim) {
            Ok("Y") => Err(Error::Node(
                "this node's policy is locked until the next boot (apparmor.lock_policy): only a reboot \
                 without it lets profiles be loaded"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    fn mounted(&self) -> Result<(), Error> {
        if self.policy("profiles").exists() {
            return Ok(());
        }
        Err(Error::Node(format!(
            "there is no AppArmor policy below {}: mount securityfs there (mount -t securityfs securityfs \
             DIR), in a container as a hostPath volume of /sys/kernel/security, or name its place with --securityfs",
            self.securityfs.display()
        )))
    }

    fn readable(&self) -> Result<(), Error> {
        let path = self.policy("profiles");
        match std::fs::File::open(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.no_access("read", &path, &error)),
        }
    }

    /// Opens without writing: a process's own AppArmor profile denies by path, here and now.
    fn writable(&self) -> Result<(), Error> {
        self.readable()?;
        for file in [".replace", ".remove"] {
            let path = self.policy(file);
            let opened = std::fs::OpenOptions::new()
                .write(true)
                .custom_flags(libc_nonblock())
                .open(&path);
            if let Err(error) = opened {
                return Err(self.no_access("write", &path, &error));
            }
        }
        Ok(())
    }

    fn no_access(&self, what: &str, path: &std::path::Path, error: &io::Error) -> Error {
        let path = path.display();
        let label = ["attr/apparmor/current", "attr/current"]
            .iter()
            .find_map(|file| fs::read_to_string(self.own(file)).ok())
            .map(|label| label.trim().to_owned())
            .filter(|label| label != "unconfined");
        let advice = match (error.kind(), label) {
            (io::ErrorKind::PermissionDenied, Some(label)) => format!(
                "this process is confined by {label}, which denies it: mount securityfs at another path and \
                 name that with --securityfs, or run the container with appArmorProfile: Unconfined"
            ),
            (io::ErrorKind::PermissionDenied, None) => "run it as root".into(),
            (io::ErrorKind::ReadOnlyFilesystem, _) => {
                "mount securityfs writable (a hostPath volume without readOnly)".into()
            }
            _ => "see --securityfs".into(),
        };
        Error::Node(format!("cannot {what} {path} ({error}): {advice}"))
    }
}
