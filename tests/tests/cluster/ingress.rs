//! What the chart `ingress` writes, asked of a real ingress controller by requests: the annotations of an
//! Ingress, and the routes of the Gateway API.

mod annotations;
mod balance;
mod clients;
pub mod fixture;
mod limits;
mod outside;
mod routes;
mod secure;
