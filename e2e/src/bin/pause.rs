//! Process 1 of every pod's sandbox: keeps the pod's namespaces open until it is killed, and needs nothing but the standard library.

fn main() {
    loop {
        std::thread::park();
    }
}
