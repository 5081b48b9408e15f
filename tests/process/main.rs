//! The real binary, from outside: start, serve, kill, restart, refuse, stop.

mod access;
mod beside;
mod clients;
mod damage;
mod expiry;
mod hosts;
mod idle;
mod languages;
mod lifecycle;
mod limits;
mod ownership;
mod refusals;
mod restart;
mod server;
mod settings;
mod state;
