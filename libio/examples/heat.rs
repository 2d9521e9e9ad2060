//! A two-dimensional heat equation that checkpoints and restarts: kill it whenever you like, start it again, and it goes on from the
//! newest version.
//!
//! `cargo run -p libio --example heat -- CLUSTER_FILE [STEPS [EVERY]]`

use std::path::Path;

use libio::Checkpoints;

/// Rows and columns of the plate; the border keeps its temperature.
const SIDE: usize = 512;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let cluster = args.next().ok_or("usage: heat CLUSTER_FILE [STEPS [EVERY]]")?;
    let steps: u64 = args.next().map_or(Ok(1000), |text| text.parse())?;
    let every: u64 = args.next().map_or(Ok(100), |text| text.parse())?;

    let client = fs_client::Client::connect(fs_client::ClientConfig::load(Path::new(&cluster))?)?;
    let checkpoints = Checkpoints::open(client, "/checkpoints")?;
    let (mut done, mut plate) = restart(&checkpoints)?;
    println!("starting at step {done}");
    while done < steps {
        plate = step(&plate);
        done += 1;
        if done % every.max(1) == 0 {
            save(&checkpoints, done, &plate)?;
            checkpoints.prune("heat", 2)?;
        }
    }
    println!("step {done}: {:.6} degrees on average", plate.iter().sum::<f64>() / plate.len() as f64);
    Ok(())
}

/// The newest version, or a cold plate with one hot edge.
fn restart(checkpoints: &Checkpoints) -> Result<(u64, Vec<f64>), Failure> {
    let Some(version) = checkpoints.latest("heat")? else {
        let mut plate = vec![0.0; SIDE * SIDE];
        plate[..SIDE].fill(100.0);
        return Ok((0, plate));
    };
    let mut bytes = vec![0; SIDE * SIDE * size_of::<f64>()];
    let read = checkpoints.read("heat", version, "plate", 0, &mut bytes)?;
    if read != bytes.len() {
        return Err(format!("version {version} is of a plate of another size").into());
    }
    let (numbers, _) = bytes.as_chunks();
    Ok((version, numbers.iter().map(|number| f64::from_le_bytes(*number)).collect()))
}

fn save(checkpoints: &Checkpoints, version: u64, plate: &[f64]) -> Result<(), Failure> {
    let bytes: Vec<u8> = plate.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut writer = checkpoints.begin("heat", version, 0, 1)?;
    writer.write("plate", &bytes, 0)?;
    Ok(writer.commit(true)?)
}

fn step(old: &[f64]) -> Vec<f64> {
    let mut new = old.to_vec();
    for row in 1..SIDE - 1 {
        for at in row * SIDE + 1..(row + 1) * SIDE - 1 {
            let around = old[at - SIDE] + old[at + SIDE] + old[at - 1] + old[at + 1];
            new[at] = old[at] + 0.2 * (around - 4.0 * old[at]);
        }
    }
    new
}
