//! A way to a server that can be stopped: what it says does not arrive before the way is free again. What it is asked does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// See the module. Clones are of the same way.
#[derive(Clone, Default)]
pub struct Relay(Arc<(Mutex<bool>, Condvar)>);

/// Answers are held until it is dropped.
pub struct Held(Relay);

impl Drop for Held {
    fn drop(&mut self) {
        let (is_held, changed) = &*self.0.0;
        *is_held.lock().expect("nobody panics with it") = false;
        changed.notify_all();
    }
}

impl Relay {
    /// An address by which `to` is reached from now on, until the process ends.
    pub fn to(&self, to: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (relay, to) = (self.clone(), to.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Without the server whoever asks finds a connection that ends.
                let Ok(far) = TcpStream::connect(&to) else { continue };
                relay.between(near, far);
            }
        });
        address
    }

    /// Holds what the server says.
    pub fn hold(&self) -> Held {
        *self.0.0.lock().expect("nobody panics with it") = true;
        Held(self.clone())
    }

    fn between(&self, near: TcpStream, far: TcpStream) {
        for socket in [&near, &far] {
            socket.set_nodelay(true).expect("an option of TCP");
        }
        let (asks, says) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        std::thread::spawn(move || pass(asks, far, || ()));
        let relay = self.clone();
        std::thread::spawn(move || pass(says, near, || relay.wait()));
    }

    fn wait(&self) {
        let (is_held, changed) = &*self.0;
        drop(changed.wait_while(is_held.lock().expect("nobody panics with it"), |is_held| *is_held));
    }
}

/// Passes bytes on, each when it may be, until one side ends.
fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn()) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        may();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        // Perhaps the other direction has done so.
        let _ = socket.shutdown(Shutdown::Both);
    }
}
