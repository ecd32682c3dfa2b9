//! Keeps the access log from filling the disk: at a size it becomes `access.log.1`, replacing the one before.

use std::{fs, io, path::Path, time::Duration};

use crate::envoy::admin::Admin;

const LONGEST_BYTES: u64 = 256 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks at the log for ever.
pub async fn rotate(file: &Path, admin: &Admin) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match set_aside(file, LONGEST_BYTES) {
            Ok(false) => {}
            // Until then Envoy goes on writing to the file under its new name: no line is lost.
            Ok(true) => {
                if let Err(error) = admin.reopen_logs().await {
                    tracing::warn!(%error, "Envoy could not be asked to begin a new access log");
                }
            }
            Err(error) => tracing::warn!(%error, "the access log could not be set aside"),
        }
    }
}

/// Renames the log if it is longer than `longest`, and says whether.
fn set_aside(file: &Path, longest: u64) -> io::Result<bool> {
    let long = match fs::metadata(file) {
        Ok(about) => about.len() > longest,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if long {
        fs::rename(file, file.with_extension("log.1"))?;
    }
    Ok(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_makes_room_and_a_short_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.log");
        assert!(!set_aside(&file, 3).unwrap());
        fs::write(&file, "abc").unwrap();
        assert!(!set_aside(&file, 3).unwrap());
        fs::write(&file, "abcd").unwrap();
        assert!(set_aside(&file, 3).unwrap());
        assert!(!file.exists());
        assert_eq!(fs::read_to_string(dir.path().join("access.log.1")).unwrap(), "abcd");
    }
}
