//! Owns the folders of partitions that do not exist: leftovers of topics deleted just before a crash, of a topic whose
//! name another one has now, or put there by hand. They are renamed as Apache Kafka renames them, `<name>.<unique>-stray`,
//! with a line in the log; nothing in them is read, changed or deleted.

use std::io;
use std::path::Path;

use tracing::warn;

use crate::controller::{MetadataImage, metadata_log};
use crate::io::{Disk, entropy};
use crate::log::checkpoints::PartitionMetadata;
use crate::log::directory::{self, Folder, FoundLog};
use crate::protocol::Uuid;

/// Sets aside the folders that belong to no partition of `image`; what is left may be opened.
pub async fn set_strays_aside(
    disk: &Disk,
    mut folder: Folder,
    image: &MetadataImage,
) -> io::Result<Folder> {
    let strays = folder.logs.extract_if(.., |log| {
        let name = log.dir.file_name().unwrap_or_default();
        name != metadata_log::DIRECTORY && why_stray(log, image).is_some()
    });
    for log in strays.collect::<Vec<_>>() {
        let why = why_stray(&log, image).unwrap_or_default();
        set_aside(disk, &log.dir, &why).await?;
    }
    Ok(folder)
}

/// Renames one folder.
pub async fn set_aside(disk: &Disk, dir: &Path, why: &str) -> io::Result<()> {
    let renamed = directory::renamed(dir, entropy::uuid(), "stray");
    disk.rename(dir, &renamed).await?;
    warn!(folder = %dir.display(), renamed = %renamed.display(), why, "a folder of no partition is set aside");
    Ok(())
}

/// As in Kafka, a folder without a legible topic id is nobody's: the id is on disk before any record is.
fn why_stray(log: &FoundLog, image: &MetadataImage) -> Option<String> {
    let metadata = log.metadata.as_deref();
    let Some(Ok(metadata)) = metadata.map(PartitionMetadata::parse) else {
        return Some("it does not say which topic it belongs to".into());
    };
    let id: Uuid = metadata.topic_id;
    match image.topic(&log.topic) {
        None => Some(format!("there is no topic {} (id {id})", log.topic)),
        Some(topic) if topic.id != id => Some(format!(
            "it belongs to topic id {id}, the topic of this name has {}",
            topic.id
        )),
        Some(topic) if topic.partition(log.partition).is_none() => {
            Some("the topic has no such partition".into())
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataDelta;
    use crate::ids::PartitionIndex;
    use crate::log::Opening;
    use crate::protocol::records::metadata::{MetadataRecord, PartitionRecord, TopicRecord};

    const ID: Uuid = Uuid([1; 16]);

    fn image() -> MetadataImage {
        let mut image = MetadataImage::new("cluster".into());
        let records = [
            MetadataRecord::from(TopicRecord {
                name: "orders".into(),
                topic_id: ID,
            }),
            MetadataRecord::from(PartitionRecord {
                topic_id: ID,
                partition_id: 0,
                ..Default::default()
            }),
        ];
        for (offset, record) in (0..).zip(&records) {
            let delta = &mut MetadataDelta::default();
            image.apply(record, offset, delta).unwrap();
        }
        image
    }

    fn found(topic: &str, partition: i32, id: Option<Uuid>) -> FoundLog {
        FoundLog {
            dir: format!("/data/{topic}-{partition}").into(),
            topic: topic.into(),
            partition: PartitionIndex(partition),
            metadata: id.map(|topic_id| PartitionMetadata { topic_id }.format()),
            opening: Opening::default(),
        }
    }

    #[test]
    fn only_the_folder_of_the_very_topic_is_adopted() {
        let image = image();
        let is_stray = |log: &FoundLog| why_stray(log, &image).is_some();
        assert!(!is_stray(&found("orders", 0, Some(ID))));
        assert!(is_stray(&found("orders", 0, Some(Uuid([2; 16])))));
        assert!(is_stray(&found("orders", 0, None)));
        assert!(is_stray(&found("orders", 1, Some(ID))));
        assert!(is_stray(&found("gone", 0, Some(ID))));
    }
}
