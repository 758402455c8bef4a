//! Memory that the server and a node keep resident. `ladon kube` is weighed where there is a cluster, in `kubernetes`.

use anyhow::{Context, Result};
use lab::{Process, Progress};

use crate::Scale;
use crate::figure::{Figure, Reach};
use crate::world::{Shape, World};

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let shape = scale.of(Shape::flat(10, 1_000, 10), Shape::flat(2, 100, 4));
    let world = World::start(shape, progress)?;
    let how = format!(
        "Resident memory (VmRSS, megabytes of 10⁶ bytes) after {} ports were made through the API one bulk after another, while everything ran: {} of them \
         are plugged on the node, whose switch has {} flows.",
        shape.ports,
        shape.local,
        world.flows()?
    );
    let figure = |name: &str, process: &Process, most: f64| -> Result<Figure> {
        Ok(Figure::new(format!("memory of `{name}`, {} ports", shape.ports), "MB", megabytes(process)?, Reach::AtMost(most))
            .how(how.clone()))
    };
    let why =
        "more than half of it are pages of the program's file, which the kernel shares and takes back; the rest is the view and its flows";
    Ok(vec![figure("ladon node", &world.node().process, 25.0)?.if_short(why), figure("ladon server", &world.ladon.server, 60.0)?])
}

/// What the process keeps resident.
pub fn megabytes(process: &Process) -> Result<f64> {
    let kib = process.resident_kib().with_context(|| format!("{} does not run", process.name()))?;
    Ok(kib as f64 * 1024.0 / 1e6)
}
