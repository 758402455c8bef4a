//! The underlay is cut.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::traffic::is_reachable;
use lab::wait;
use serde_json::json;

use crate::world::{DEADLINE, World, cost, is_in_time, is_long, let_pass, ms};

/// Traffic returns in this time once the underlay is there again, on a machine that has nothing else to do.
const BACK: Duration = Duration::from_secs(2);

#[test]
fn without_underlay_a_node_goes_on_inside_and_the_rest_returns_with_it() -> Result<()> {
    let world = World::start()?;
    let cut = Duration::from_secs(if is_long() { 60 } else { 8 });
    let far = &world.node(1).host;
    let ((open, caught_up, _late), seen) = world.under_traffic(|traffic| {
        world.pair.underlay.set_cable(far, false)?;
        // What happens meanwhile, the node that is cut off hears of later.
        let late = world.pair.plug(&world.network, 0, "late", json!({}))?;
        let_pass(cut);
        world.pair.underlay.set_cable(far, true)?;
        let (since, said) = (Instant::now(), traffic.stream_between.echoed());
        let open = world.wait_reachable(since, DEADLINE)?;
        let late_is_heard_of = || is_reachable(world.far.workload.netns(), late.v6).map(|is| is.then_some(()));
        wait::until("the port made meanwhile to be reached", DEADLINE, late_is_heard_of)?;
        world.wait_in_force()?;
        let caught_up = since.elapsed();
        // TCP waits twice as long before each retransmission: up to as long as the cut again.
        let goes_on = || Ok::<_, anyhow::Error>((traffic.stream_between.echoed() > said).then_some(()));
        wait::until("TCP's next retransmission", 2 * cut + DEADLINE, goes_on)?;
        Ok((open, caught_up, late))
    })?;
    seen.inside.is_of_ports(1)?;
    seen.has_streams()?;
    is_in_time(open, BACK, "everybody talked again")?;
    cost(
        &format!("the underlay of one node cut for {} s", cut.as_secs()),
        format!(
            "inside a node {}; between nodes everybody talks {} after it is back, both TCP streams went on; what changed meanwhile is in force after {}",
            seen.inside,
            ms(open),
            ms(caught_up)
        ),
    );
    Ok(())
}
