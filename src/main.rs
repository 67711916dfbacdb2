//! armorer keeps the AppArmor profiles of a Kubernetes node equal to what the cluster wants.

mod advice;
mod blob;
mod error;
mod includes;
mod parser;
mod profile;

fn main() {}
