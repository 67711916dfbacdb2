//! A kernel's features: the classes and operations that it mediates.
//!
//! As text they are nested `NAME {VALUE}`, as in the compiler's abi files; securityfs shows the same
//! tree as folders and files.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::{fs, os::unix::fs::PermissionsExt as _};

use walkdir::WalkDir;

use super::{Compiler, Settings};
use crate::error::Error;

/// The features of Debian 13's kernel, for machines without AppArmor.
const CARRIED: &str = include_str!("features-6.12");
const CARRIED_NAME: &str = "the built-in features of Linux 6.12";

/// The largest file of features.
const FEATURES_BYTES: u64 = 1 << 20;

/// Every abi file has this class.
const FILES: &str = "file {";

/// The features at `path`, a folder of securityfs or a file, as text.
///
/// # Errors
/// The system's.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    if !path.is_dir() {
        let text = crate::fs::read(path, FEATURES_BYTES)?;
        return Ok(String::from_utf8_lossy(&text).into_owned());
    }
    let (mut text, mut open) = (String::new(), 0_usize);
    for entry in WalkDir::new(path).min_depth(1).sort_by_file_name() {
        let entry = entry?;
        let close = (open + 1).saturating_sub(entry.depth());
        text += &"}\n".repeat(close);
        open -= close;
        text += &format!("{} {{", entry.file_name().to_string_lossy());
        if entry.file_type().is_dir() {
            open += 1;
        } else {
            text += &format!("{}}}\n", fs::read_to_string(entry.path())?);
        }
    }
    Ok(text + &"}\n".repeat(open))
}

/// A compiler for each of `files`, which hold features; with none of them, for the running kernel, or
/// without AppArmor there for the features that armorer carries.
///
/// # Errors
/// There is no compiler; a file is no features file.
pub(crate) fn compilers(settings: &Settings, files: &[PathBuf]) -> Result<Vec<Compiler>, Error> {
    if files.is_empty() {
        let compiler = match settings.features.exists() {
            true => Compiler::find(settings.clone()),
            false => with_features(settings, CARRIED_NAME.into(), CARRIED),
        };
        return Ok(vec![compiler?]);
    }
    let compilers = files.iter().map(|file| {
        let shown = file.display().to_string();
        let text = text(file).map_err(Error::io(format!("read the features in {shown}")))?;
        if text.contains(FILES) && text.matches('{').count() == text.matches('}').count() {
            return with_features(settings, shown, &text);
        }
        let line = "holds no features: give an abi file, or the output of `armorer features`";
        Err(Error::Usage(format!("{shown} {line}")))
    });
    compilers.collect()
}

/// The compiler's user reads the features from a file of their own.
fn with_features(settings: &Settings, name: String, text: &str) -> Result<Compiler, Error> {
    let mut compiler = Compiler::find(settings.clone())?;
    let readable = fs::Permissions::from_mode(0o644);
    let file = tempfile::Builder::new().permissions(readable).tempfile();
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
    let purpose = "write the features to a temporary file";
    compiler.other_features = Some(written.map_err(Error::io(purpose))?);
    compiler.features_name = name;
    Ok(compiler)
}
