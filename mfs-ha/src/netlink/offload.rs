//! What an interface's driver can do: whether it strips VLAN tags, and whether it runs XDP.

use std::fmt::Debug;
use std::time::Duration;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt;
use genetlink::GenetlinkError;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The kernel's name of `ethtool -k`'s rx-vlan-offload.
const RX_VLAN_OFFLOAD: &str = "rx-vlan-hw-parse";

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs and obeys drop, pass and transmit.
const XDP_ACT_BASIC: u64 = 1;

/// Why the kernel did not tell.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// There is no socket to ask through.
    #[error("cannot open a netlink socket")]
    Connect(#[source] std::io::Error),
    /// The kernel refused, or does not know the question.
    #[error("the kernel does not tell the {what}: {reason}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// As the library words it.
        reason: String,
    },
    /// The kernel did not answer.
    #[error("no answer from the kernel for a second, asked for the {what}")]
    TimedOut {
        /// What was asked for.
        what: &'static str,
    },
}

async fn ask<T, E: ToString>(
    what: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, FeatureError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| FeatureError::Refused {
            what,
            reason: error.to_string(),
        }),
        Err(_elapsed) => Err(FeatureError::TimedOut { what }),
    }
}

/// Whether the interface takes the VLAN tag off a packet before XDP sees it.
///
/// # Errors
/// When the kernel does not tell.
pub async fn strips_vlan_tags(interface: &str) -> Result<bool, FeatureError> {
    let (connection, mut handle, _) = ethtool::new_connection().map_err(FeatureError::Connect)?;
    let connection = tokio::spawn(connection);
    let what = "offload features of the interface";
    let answer = ask(what, async {
        let messages = handle.feature().get(Some(interface)).execute().await?;
        messages.try_collect::<Vec<_>>().await
    })
    .await;
    connection.abort();
    Ok(answer?
        .iter()
        .flat_map(|message| &message.payload.nlas)
        .filter_map(|attribute| {
            if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(features)) = attribute {
                return Some(features);
            }
            None
        })
        .flatten()
        .any(|feature| feature.name == RX_VLAN_OFFLOAD && feature.value))
}

/// Whether the interface's driver runs XDP programs; known from Linux 6.3 on.
///
/// # Errors
/// When the kernel does not tell.
pub async fn has_native_xdp(ifindex: u32) -> Result<bool, FeatureError> {
    let (connection, mut handle, _) = genetlink::new_connection().map_err(FeatureError::Connect)?;
    let connection = tokio::spawn(connection);
    let mut question =
        NetlinkMessage::from(GenlMessage::from_payload(Device::Question { ifindex }));
    question.header.flags = NLM_F_REQUEST;
    let answer = ask("XDP features of the interface", async {
        let answers = handle.request(question).await?;
        answers
            .map_err(GenetlinkError::from)
            .try_filter_map(|answer| async {
                if let NetlinkPayload::InnerMessage(message) = answer.payload {
                    return Ok(Some(message.payload));
                }
                if let NetlinkPayload::Error(error) = answer.payload {
                    return Err(GenetlinkError::from(error));
                }
                Ok(None)
            })
            .try_collect::<Vec<_>>()
            .await
    })
    .await;
    connection.abort();
    answer?
        .into_iter()
        .find_map(|device| match device {
            Device::Answer { xdp_features } => xdp_features,
            Device::Question { .. } => None,
        })
        .map(|features| features & XDP_ACT_BASIC != 0)
        .ok_or_else(|| FeatureError::Refused {
            what: "XDP features of the interface",
            reason: "the answer does not hold them".to_owned(),
        })
}

/// A message of the kernel's `netdev` family.
#[derive(Debug)]
enum Device {
    Question { ifindex: u32 },
    Answer { xdp_features: Option<u64> },
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        match self {
            Self::Question { .. } => 8,
            Self::Answer { .. } => 0,
        }
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Self::Question { ifindex } = self {
            let mut attribute = Vec::with_capacity(8);
            attribute.extend(8_u16.to_ne_bytes());
            attribute.extend(NETDEV_A_DEV_IFINDEX.to_ne_bytes());
            attribute.extend(ifindex.to_ne_bytes());
            if let Some(room) = buffer.get_mut(..attribute.len()) {
                room.copy_from_slice(&attribute);
            }
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut xdp_features = None;
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            if attribute.kind() == NETDEV_A_DEV_XDP_FEATURES {
                xdp_features = attribute.value().try_into().ok().map(u64::from_ne_bytes);
            }
        }
        Ok(Self::Answer { xdp_features })
    }
}
