//! The lines of INFO's section Replication that depend on the role and the number of replicas.

use crate::admin::facts::Facts;
use crate::replication::link::Phase;

impl Facts<'_> {
    /// The role, and further lines about the link of a replica.
    pub(super) fn role(&self) -> String {
        let link = &self.shared.replication.link;
        let Some(primary) = link.primary() else {
            return String::from("master");
        };
        let (is_up, is_syncing) = (link.is_connected(), link.phase() == Phase::Transfer);
        let mut lines = vec![
            String::from("slave"),
            format!("master_host:{}", primary.host),
            format!("master_port:{}", primary.port),
            format!("master_link_status:{}", if is_up { "up" } else { "down" }),
            format!(
                "master_last_io_seconds_ago:{}",
                if is_up { link.idle_s() } else { -1 }
            ),
            format!("master_sync_in_progress:{}", u8::from(is_syncing)),
            format!("slave_read_repl_offset:{}", link.read_offset(self.shared)),
            format!("slave_repl_offset:{}", self.history.offset),
        ];
        if is_syncing {
            let (total, read) = link.transfer();
            let percent = match total {
                0 => 0.0,
                total => read as f64 / total as f64 * 100.0,
            };
            lines.extend([
                format!("master_sync_total_bytes:{total}"),
                format!("master_sync_read_bytes:{read}"),
                format!("master_sync_left_bytes:{}", total as i64 - read as i64),
                format!("master_sync_perc:{percent:.2}"),
                format!("master_sync_last_io_seconds_ago:{}", link.idle_s()),
            ]);
        }
        if !is_up {
            let down_s = link.down_s().unwrap_or(-1);
            lines.push(format!("master_link_down_since_seconds:{down_s}"));
        }
        let config = self.config;
        lines.extend([
            format!("slave_priority:{}", config.replica_priority),
            format!("slave_read_only:{}", u8::from(config.replica_read_only)),
            format!("replica_announced:{}", u8::from(config.replica_announced)),
        ]);
        lines.join("\r\n")
    }

    /// How many replicas there are, and a further line for each.
    pub(super) fn replicas(&self) -> String {
        let mut text = self.feeds.len().to_string();
        if self.config.min_replicas_to_write > 0 && self.config.min_replicas_max_lag_s > 0 {
            let good = self.shared.replication.good_replicas(self.config);
            text += &format!("\r\nmin_slaves_good_slaves:{good}");
        }
        for (number, feed) in self.feeds.iter().enumerate() {
            let lag_s = match feed.is_shown_online() {
                true => feed.lag_s(self.now.0),
                false => 0,
            };
            text += &format!(
                "\r\nslave{number}:ip={},port={},state={},offset={},lag={lag_s}",
                feed.address(),
                feed.abilities.port,
                feed.status().name(),
                feed.acked(),
            );
        }
        text
    }
}
