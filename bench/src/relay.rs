//! Owns: the raw TCP relay, which only copies bytes between client and origin in one thread: the lowest possible cost.
//! Invariant: each client connection has one origin connection for its whole lifetime; origins are used in rotation.
//! Must not know: that the bytes are HTTP.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// Requests are small.
const UPWARD: usize = 16 * 1024;
/// A 1 MiB body carried in pieces of 64 KiB costs half as much again; above this size it no longer falls.
const DOWNWARD: usize = 512 * 1024;

/// Where to listen and whom to relay to.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address that clients connect to.
    #[arg(long)]
    listen: SocketAddr,
    /// An origin; repeat for more.
    #[arg(long = "origin", required = true)]
    origins: Vec<SocketAddr>,
}

/// Relays until the process is ended.
pub(crate) fn run(args: &Args) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        for &origin in args.origins.iter().cycle() {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A connection that breaks is the client's to notice and count.
                let _ = relay(client, origin).await;
            });
        }
        Ok(())
    })
}

async fn relay(mut client: TcpStream, origin: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(origin).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, UPWARD, DOWNWARD).await?;
    Ok(())
}
