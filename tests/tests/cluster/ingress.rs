//! Sends requests through a real ingress controller that follows what the chart `ingress` writes: the
//! annotations of an Ingress, and the routes of the Gateway API.

mod annotations;
mod balance;
mod clients;
pub mod fixture;
mod limits;
mod outside;
mod routes;
mod secure;
