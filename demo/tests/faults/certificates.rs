//! A certificate expires.

use std::fs;

use anyhow::{Result, ensure};
use demo::id;
use lab::wait;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd};
use serde_json::json;

use crate::world::{DEADLINE, World, cost};

/// The name that every server has in its certificate.
const SERVER: &str = "ladon-server";

/// A certificate of the deployment's authority for `name`, over since 2021, and its key.
fn expired(world: &World, subject: &str, name: SanType, usage: ExtendedKeyUsagePurpose) -> Result<(String, String)> {
    let pki = world.pair.ladon.dir().join("pki");
    let authority = KeyPair::from_pem(&fs::read_to_string(pki.join("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(pki.join("ca.crt"))?, authority)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params.distinguished_name.push(DnType::CommonName, subject);
    params.subject_alt_names = vec![name];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

/// The server is started again, until nodes follow it and everything is in force.
fn started_again(world: &World) -> Result<()> {
    world.pair.ladon.server.restart()?;
    world.pair.ladon.wait_for_server()?;
    world.wait_in_force()
}

#[test]
fn a_node_whose_certificate_expired_forwards_on_says_so_and_follows_again_with_a_new_one() -> Result<()> {
    let world = World::start()?;
    let node = world.node(1);
    let pki = world.pair.ladon.dir().join("pki");
    let files = ["crt", "key"].map(|end| pki.join(format!("node-n2.{end}")));
    let (said, seen) = world.under_traffic(|_| {
        let good = [fs::read(&files[0])?, fs::read(&files[1])?];
        let name = SanType::URI("node:n2".try_into()?);
        let (certificate, key) = expired(&world, "node:n2", name, ExtendedKeyUsagePurpose::ClientAuth)?;
        fs::write(&files[0], certificate)?;
        fs::write(&files[1], key)?;
        node.process.restart()?;
        let said = node.process.wait_until("the node to say that its certificate expired", DEADLINE, || {
            let log = node.process.log_tail(30);
            let line = log.lines().find(|line| line.contains("xpired")).map(str::to_owned);
            line.map(Some).ok_or(log)
        })?;
        let late = world.pair.api().create("port", json!({"network_id": id(&world.network), "name": "late", "binding:host_id": "n2"}))?;
        fs::write(&files[0], &good[0])?;
        fs::write(&files[1], &good[1])?;
        wait::until("the node to follow again", DEADLINE, || {
            let all = world.pair.ladon.ladon(world.node(0), &["nodes"]).map_err(|error| format!("{error:#}"))?;
            let nodes = all["nodes"].as_array().into_iter().flatten();
            let is_there = nodes.into_iter().any(|node| node["name"] == "n2" && node["is_connected"] == true);
            if is_there { Ok(Some(())) } else { Err(all.to_string()) }
        })?;
        world.wait_in_force()?;
        world.pair.api().delete("port", id(&late))?;
        Ok(said)
    })?;
    seen.is_undisturbed()?;
    println!("{said}");
    cost(
        "a node's certificate expired",
        format!("{}; the node says so, forwards on and follows again with a new one, without a restart", seen.all()),
    );
    Ok(())
}

#[test]
fn a_server_whose_certificate_is_unreadable_does_not_start_and_costs_no_packet() -> Result<()> {
    let world = World::start()?;
    let server = &world.pair.ladon.server;
    let file = world.pair.ladon.dir().join("pki/server.crt");
    let (said, seen) = world.under_traffic(|_| {
        let good = fs::read(&file)?;
        server.kill9()?;
        fs::write(&file, &good[..good.len() / 2])?;
        server.restart()?;
        server.wait(DEADLINE)?;
        let said = server.log_tail(3);
        fs::write(&file, &good)?;
        started_again(&world)?;
        Ok(said)
    })?;
    seen.is_undisturbed()?;
    ensure!(said.contains("server.crt"), "{said}");
    cost("the server's certificate cut off", format!("the server refuses to start and says why; {}", seen.all()));
    Ok(())
}

#[test]
fn nodes_of_a_server_whose_certificate_expired_forward_on_say_so_and_follow_again() -> Result<()> {
    let world = World::start()?;
    let (server, node) = (&world.pair.ladon.server, world.node(0));
    let pki = world.pair.ladon.dir().join("pki");
    let files = ["crt", "key"].map(|end| pki.join(format!("server.{end}")));
    let (said, seen) = world.under_traffic(|_| {
        let good = [fs::read(&files[0])?, fs::read(&files[1])?];
        let name = SanType::DnsName(SERVER.try_into()?);
        let (certificate, key) = expired(&world, SERVER, name, ExtendedKeyUsagePurpose::ServerAuth)?;
        fs::write(&files[0], certificate)?;
        fs::write(&files[1], key)?;
        server.restart()?;
        let said = node.process.wait_until("the node to say that the server's certificate expired", DEADLINE, || {
            let log = node.process.log_tail(30);
            let line = log.lines().find(|line| line.contains("xpired")).map(str::to_owned);
            line.map(Some).ok_or(log)
        })?;
        fs::write(&files[0], &good[0])?;
        fs::write(&files[1], &good[1])?;
        started_again(&world)?;
        Ok(said)
    })?;
    seen.is_undisturbed()?;
    println!("{said}");
    cost("the server's certificate expired", format!("{}; nodes say so, forward on and follow again", seen.all()));
    Ok(())
}
