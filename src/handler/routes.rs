//! Which handler serves which path. Handlers belong to a shard, so what is kept is how to make
//! one.

use std::fmt;
use std::sync::Arc;

use super::Handler;
use super::echo::Echo;
use super::plain::Plain;

/// Makes the handler of one shard.
type Make = Arc<dyn Fn() -> Box<dyn Handler> + Send + Sync>;

/// Paths with their handlers, as a shard has them.
pub type ShardRoutes = Vec<(Box<str>, Box<dyn Handler>)>;

/// Most paths: a connection keeps the number of its own in a byte.
const MOST: usize = 256;

/// The paths that are served.
#[derive(Clone)]
pub(crate) struct Routes(Vec<(String, Make)>);

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(path, _)| path)).finish()
    }
}

impl Routes {
    /// `/ws`, and `/echo` if it is wanted.
    pub(crate) fn new(echo: bool) -> Self {
        let mut routes = Self(Vec::new());
        routes.add("/ws".to_owned(), Arc::new(|| Box::new(Plain)));
        if echo {
            routes.add("/echo".to_owned(), Arc::new(|| Box::new(Echo)));
        }
        routes
    }

    /// One more.
    pub(crate) fn add(&mut self, path: String, make: Make) {
        self.0.push((path, make));
    }

    /// What is wrong with the paths.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.0.len() > MOST {
            return Err(format!("{} paths are served; {MOST} can be", self.0.len()));
        }
        for (index, (path, _)) in self.0.iter().enumerate() {
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
            if !path.starts_with('/') || !path.bytes().all(plain) {
                return Err(format!("{path:?} is not a path, as in /chat"));
            }
            if self.0[..index].iter().any(|(other, _)| other == path) {
                return Err(format!("{path} is served already"));
            }
        }
        Ok(())
    }

    /// The handlers of one shard.
    pub(crate) fn make(&self) -> ShardRoutes {
        self.0.iter().map(|(path, make)| (path.as_str().into(), make())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(paths: &[&str]) -> Result<(), String> {
        let mut routes = Routes::new(true);
        paths.iter().for_each(|path| routes.add((*path).into(), Arc::new(|| Box::new(Plain))));
        routes.check()
    }

    #[test]
    fn a_path_is_served_once_and_is_a_path() {
        assert_eq!(with(&["/chat", "/chat/room-1", "/%20"]), Ok(()));
        assert_eq!(with(&["/echo"]), Err("/echo is served already".to_owned()));
        for wrong in ["", "chat", "/a?b", "/a b", "/\u{e4}"] {
            assert!(with(&[wrong]).is_err_and(|error| error.contains("not a path")), "{wrong}");
        }
        let many: Vec<String> = (0..255).map(|number| format!("/{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(with(&many[..254]).is_ok() && with(&many).is_err());
    }
}
