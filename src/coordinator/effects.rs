//! Owns what a group may see and change beside itself while it decides.

use super::settings::Settings;
use super::timers::Timers;
use super::{Actions, Now, Record};
use crate::controller::MetadataImage;

#[derive(Debug)]
pub(super) struct Effects<'a> {
    pub now: Now,
    pub settings: &'a Settings,
    /// The cluster as this core knows it.
    pub image: &'a MetadataImage,
    /// The version of metadata that had topics last that were new; -1: not known yet.
    pub new_topics_at: i64,
    pub timers: &'a mut Timers,
    pub out: &'a mut Actions,
}

impl Effects<'_> {
    pub fn write(&mut self, record: Record) {
        self.out.records.push(record);
    }

    /// Whether a record can be written at all.
    pub fn fits(&self, record: &Record) -> bool {
        record.size_in_bytes() <= self.settings.batch_bytes_max
    }
}
