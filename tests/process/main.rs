//! The real binary, from outside: start, serve, kill, restart, refuse, stop. `PROCESS_SERVER` names another binary, for
//! instance that of an older version, to see which tests it does not pass.

mod access;
mod anywhere;
mod beside;
mod clients;
mod cluster;
mod damage;
mod expiry;
mod forward;
mod grow;
mod hosts;
mod idle;
mod languages;
mod leads;
mod left_behind;
mod lifecycle;
mod limits;
mod members;
mod nodes;
mod ownership;
mod refusals;
mod restart;
mod server;
mod settings;
mod state;
mod told;
