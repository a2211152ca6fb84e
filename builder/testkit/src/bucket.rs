//! A real object store (moto's S3 server) on a loopback port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// An object store with one bucket, which ends when dropped.
#[derive(Debug)]
pub struct ObjectStore {
    child: Child,
    address: String,
}

impl ObjectStore {
    /// The name of the bucket.
    pub const BUCKET: &'static str = "cache";

    /// Starts a server and makes the bucket.
    ///
    /// # Errors
    /// Why none can be started.
    pub fn start() -> Result<Self, String> {
        if let Some(why) = crate::missing_program(&["moto_server"]) {
            return Err(format!("{why} (PyPI: moto[server])"));
        }
        let mut child = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|err| format!("moto_server: {err}"))?;
        let address = listening(&mut child);
        let mut store = Self { child, address: String::new() };
        store.address = address?;
        store.request("PUT", &format!("/{}", Self::BUCKET))?;
        Ok(store)
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers a request without a body; gives the answer's body.
    ///
    /// # Errors
    /// A server that does not answer, or not with 200.
    pub fn request(&self, method: &str, path: &str) -> Result<String, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            let host = &self.address;
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = vec![];
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = ask().map_err(|err| format!("moto_server: {err}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            _ => Err(format!("moto_server: {head}")),
        }
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to the line that names the port, which the kernel chose; keeps the pipe empty from then on.
fn listening(child: &mut Child) -> Result<String, String> {
    let mut log = BufReader::new(child.stderr.take().ok_or("moto_server has no log")?);
    let mut all = String::new();
    loop {
        let mut line = String::new();
        if log.read_line(&mut line).map_err(|err| err.to_string())? == 0 {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("moto_server ended:\n{all}"));
        }
        if let Some((_, rest)) = line.split_once("Running on http://") {
            let address = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return Ok(address);
        }
        all.push_str(&line);
    }
}
