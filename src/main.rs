//! armorer keeps the AppArmor profiles of a Kubernetes node equal to what the cluster wants.

mod error;
mod profile;
mod source;

fn main() {}
