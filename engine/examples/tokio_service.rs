//! A service on tokio that keeps its counters in an embedded store: any task, on any thread, awaits
//! the store's futures.
//!
//! ```text
//! cargo run --release -p gridkv --example tokio_service
//! printf 'apple\npear\napple\n' | nc -q1 127.0.0.1 7400
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use gridkv::{Engine, Handle};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One core for the store; the rest of the machine is tokio's. The counters are still there after
    // a restart.
    let data = std::env::temp_dir().join("gridkv-tokio-service");
    let engine = Engine::builder().cores(1).data(data).open()?;
    let listener = TcpListener::bind("127.0.0.1:7400").await?;
    println!("counts the lines it is sent on {}; Ctrl-C ends it", listener.local_addr()?);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted?;
                let store = engine.handle();
                tokio::spawn(async move {
                    if let Err(error) = serve(client, store).await {
                        eprintln!("a client left: {error}");
                    }
                });
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    engine.shutdown()?;
    Ok(())
}

/// Answers each line with how often it was seen.
async fn serve(client: TcpStream, store: Handle) -> Result<(), Box<dyn std::error::Error>> {
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let count = store.increment(&line, 1).await?;
        write.write_all(format!("{line}: {count}\n").as_bytes()).await?;
    }
    Ok(())
}
