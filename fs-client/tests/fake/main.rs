//! The client against fake servers (see `support`): what it sends, how often, where to, and what it makes of faults.

mod data;
mod holes;
mod names;
mod paths;
mod retry;
mod routing;
mod small;
mod support;
mod threads;
mod world;
