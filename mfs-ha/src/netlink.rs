//! Asking the kernel about interfaces and addresses, and changing them.
//!
//! A request is made over a connection of its own, so that notifications and overruns of the
//! watcher cannot swallow an answer. Requests take the kernel's RTNL lock **in the calling
//! thread**, which another program can hold for long: none of this may run on the thread that
//! sends heartbeats.

mod decode;
pub mod offload;
pub mod vip;
pub mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{AddressMessageBuilder, Handle};

use crate::interface::{Address, Interface};

/// An answer comes within microseconds; a lost one must not stop the daemon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// There is no socket to ask through.
    #[error("cannot open a netlink socket")]
    Connect(#[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// The kernel's reason.
        source: Errno,
    },
    /// The kernel did not answer.
    #[error("no answer from the kernel for a second, asked to {operation}")]
    TimedOut {
        /// What was asked for.
        operation: &'static str,
    },
    /// The connection broke, or the answer was no answer to the question.
    #[error("no proper answer from the kernel, asked to {operation}")]
    NoAnswer {
        /// What was asked for.
        operation: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            Self::Connect(_) | Self::TimedOut { .. } | Self::NoAnswer { .. } => None,
        }
    }
}

/// An address somewhere on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The interface that has it.
    pub interface: String,
    /// That interface's number.
    pub ifindex: u32,
    /// The prefix it is configured with.
    pub prefix_len: u8,
}

/// An interface of this host, without what takes more questions to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub ifindex: u32,
    /// `IFF_LOOPBACK`
    pub loopback: bool,
}

/// A connection to the kernel; ends when the last clone is dropped.
///
/// It belongs to the network namespace of the thread that made it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a connection, driven by a task of the current tokio runtime.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Connect)?;
        // The task ends by itself once all handles are dropped.
        drop(tokio::spawn(connection));
        Ok(Self { handle })
    }

    /// Looks an interface up by its name; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        let operation = "show an interface";
        let request = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let message = match ask(operation, request.try_collect::<Vec<_>>()).await {
            Ok(messages) => messages.into_iter().next(),
            Err(error) if error.errno() == Some(Errno::ENODEV) => None,
            Err(error) => return Err(error),
        };
        let Some(message) = message else {
            return Ok(None);
        };
        let addresses = self.addresses(message.header.index).await?;
        Ok(addresses.map(|addresses| decode::interface(name, &message, addresses)))
    }

    /// All interfaces of this network namespace, by number.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> = ask("list interfaces", request.try_collect()).await?;
        let mut links: Vec<Link> = messages.iter().filter_map(decode::link).collect();
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// The IPv4 addresses of an interface; `None` when the interface is gone.
    async fn addresses(&self, ifindex: u32) -> Result<Option<Vec<Address>>, NetlinkError> {
        match self.dump_addresses(Some(ifindex)).await {
            Ok(messages) => Ok(Some(
                messages
                    .iter()
                    .filter_map(decode::address)
                    .map(|(_, address)| address)
                    .collect(),
            )),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The interfaces of this host that have `wanted`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn owners_of(&self, wanted: Ipv4Addr) -> Result<Vec<Owner>, NetlinkError> {
        let messages = self.dump_addresses(None).await?;
        let mut owners = Vec::new();
        for (ifindex, found) in messages.iter().filter_map(decode::address) {
            if found.address != wanted {
                continue;
            }
            owners.push(Owner {
                interface: self.name_of(ifindex).await?,
                ifindex,
                prefix_len: found.prefix_len,
            });
        }
        Ok(owners)
    }

    async fn name_of(&self, ifindex: u32) -> Result<String, NetlinkError> {
        let request = self.handle.link().get().match_index(ifindex).execute();
        let messages: Vec<LinkMessage> = match ask("show an interface", request.try_collect()).await
        {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Vec::new(),
            other => other?,
        };
        let name = messages.iter().find_map(decode::name);
        Ok(name.unwrap_or_else(|| format!("interface {ifindex}")))
    }

    async fn dump_addresses(
        &self,
        ifindex: Option<u32>,
    ) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut request = self.handle.address().get();
        let header = &mut request.message_mut().header;
        header.family = AddressFamily::Inet;
        if let Some(ifindex) = ifindex {
            header.index = ifindex;
            request = request.set_link_index_filter(ifindex);
        }
        ask("list addresses", request.execute().try_collect()).await
    }

    /// Adds an address; one that is there already is fine.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub async fn add_address(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .address()
            .add(ifindex, IpAddr::V4(address), prefix_len);
        match ask("add an address", request.execute()).await {
            Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Removes an address; one that is not there is fine, and so is an interface that is gone.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub async fn remove_address(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(ifindex)
            .address(address, prefix_len)
            .build();
        match ask(
            "remove an address",
            self.handle.address().del(message).execute(),
        )
        .await
        {
            Err(error) if matches!(error.errno(), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => {
                Ok(())
            }
            other => other,
        }
    }
}

/// Waits for an answer, no longer than [`ANSWER_TIMEOUT`].
async fn ask<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => Err(NetlinkError::Refused {
            operation,
            source: Errno::from_raw(message.raw_code().saturating_neg()),
        }),
        Ok(Err(_)) => Err(NetlinkError::NoAnswer { operation }),
        Err(_elapsed) => Err(NetlinkError::TimedOut { operation }),
    }
}
