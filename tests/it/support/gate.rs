//! A server that answers no request before the test lets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// A server that answers each request with its path once it is let, on a socket of its own.
pub struct Gate {
    pub address: std::net::SocketAddr,
    pub lets: Arc<Semaphore>,
    seen: Arc<std::sync::Mutex<Vec<String>>>,
    /// The most requests that it had at a time.
    pub most: Arc<AtomicUsize>,
}

impl Gate {
    pub async fn start() -> Gate {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lets, seen) = (Arc::new(Semaphore::new(0)), Arc::<std::sync::Mutex<Vec<String>>>::default());
        let (active, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let gate = Gate { address, lets: Arc::clone(&lets), seen: Arc::clone(&seen), most: Arc::clone(&most) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (lets, seen) = (Arc::clone(&lets), Arc::clone(&seen));
                let (active, most) = (Arc::clone(&active), Arc::clone(&most));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                        while line != "\r\n" {
                            line.clear();
                            stream.read_line(&mut line).await.unwrap();
                        }
                        seen.lock().unwrap().push(path.clone());
                        most.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        lets.acquire().await.unwrap().forget();
                        active.fetch_sub(1, Ordering::SeqCst);
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        gate
    }

    /// Returns the paths of its requests, in their order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}
