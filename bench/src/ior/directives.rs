//! IOR's directives, `NAME=VALUE`: of `-O` and of scripts. Names are those of IOR; case does not matter.

use super::options::IorArgs;
use super::plan::Format;
use crate::backend::Api;
use crate::error::{BenchError, Result};
use crate::pattern::Packet;
use crate::{machine, size};
use clap::ValueEnum;

/// Applies one `NAME=VALUE`.
///
/// # Errors
/// [`BenchError::Options`] if there is no such directive, or its value has no meaning.
pub fn apply_line(args: &mut IorArgs, line: &str) -> Result<()> {
    let Some((name, value)) = line.split_once('=') else {
        return Err(BenchError::Options(format!("a directive is NAME=VALUE, not '{line}'")));
    };
    apply(args, name.trim(), value.trim())
        .map_err(|why| BenchError::Options(format!("directive '{}': {why}", line.trim())))
}

/// Directives of APIs that do not exist here: accepted when they ask for nothing.
const FOREIGN: [&str; 14] = [
    "hintsfilename",
    "showhints",
    "showhelp",
    "setalignment",
    "individualdatasets",
    "nofill",
    "preallocate",
    "usefileview",
    "usesharedfilepointer",
    "usestrideddatatype",
    "summaryalways",
    "interiodelay",
    "mintimeduration",
    "debug",
];

fn number<T: std::str::FromStr>(value: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|_| format!("'{value}' is no number that fits"))
}

fn flag(value: &str) -> std::result::Result<bool, String> {
    number::<u64>(value).map(|n| n != 0)
}

fn apply(args: &mut IorArgs, name: &str, value: &str) -> std::result::Result<(), String> {
    let name = name.to_ascii_lowercase();
    if apply_output(args, &name, value)? || apply_switch(args, &name, value)? {
        return Ok(());
    }
    match name.as_str() {
        "api" => args.common.api = Api::from_str(value, true)?,
        "refnum" => args.reference = number(value)?,
        "testfile" => value.clone_into(&mut args.test_file),
        "repetitions" => args.repetitions = number(value)?,
        "numtasks" => args.num.tasks = Some(number(value)?).filter(|n| *n > 0),
        "segmentcount" => args.segments = size::parse(value)?,
        "blocksize" => args.block_size = size::parse(value)?,
        "transfersize" => args.transfer_size = size::parse(value)?,
        "intertestdelay" => args.delay_s = number(value)?,
        "deadlineforstonewalling" => args.deadline_s = number(value)?,
        "maxtimeduration" => args.max_minutes = number(value)?,
        "outlierthreshold" => args.outlier_s = number(value)?,
        "taskpernodeoffset" => args.task_offset = number(value)?,
        "reordertasksrandomseed" => args.reorder_seed = number(value)?,
        "settimestampsignature" => args.seed = Some(number(value)?).filter(|seed| *seed > 0),
        "verbose" => args.verbose = number(value)?,
        "memorypernode" => args.hog_per_node = Some(machine::memory_share(value)?),
        "memorypertask" => args.more.hog_per_task = size::parse(value)?,
        "datapackettype" => args.packet = Packet::parse(value)?,
        "storefileoffset" => args.packet = Packet::parse(if flag(value)? { "offset" } else { "random" })?,
        "stonewallingwearoutiterations" => args.more.wear_out_iterations = number(value)?,
        "stonewallingstatusfile" => args.more.status_file = Some(value.to_owned()),
        foreign if FOREIGN.contains(&foreign) && (value == "0" || value.is_empty()) => {}
        foreign if FOREIGN.contains(&foreign) => return Err("no API here has it".to_owned()),
        _ => return Err("no such directive".to_owned()),
    }
    Ok(())
}

fn apply_output(args: &mut IorArgs, name: &str, value: &str) -> std::result::Result<bool, String> {
    match name {
        "summaryfile" => args.more.summary_file = Some(value.to_owned()),
        "summaryformat" => {
            args.more.format = match value.to_ascii_lowercase().as_str() {
                "default" => Format::Text,
                "json" => Format::Json,
                "csv" => Format::Csv,
                _ => return Err("a format is default, JSON or CSV".to_owned()),
            }
        }
        "saverankperformancedetailscsv" => args.more.rank_csv = Some(value.to_owned()),
        "saveperopdatacsv" => value.clone_into(&mut args.more.operations_csv),
        _ => return Ok(false),
    }
    Ok(true)
}

fn apply_switch(args: &mut IorArgs, name: &str, value: &str) -> std::result::Result<bool, String> {
    let switch = match name {
        "collective" => &mut args.collective,
        "reordertasksconstant" | "reordertasks" => &mut args.reorder_constant,
        "reordertasksrandom" => &mut args.reorder_random,
        "quitonerror" => &mut args.quit_on_error,
        "intratestbarriers" => &mut args.intra_barriers,
        "uniquedir" => &mut args.unique_dir,
        "writefile" => &mut args.write,
        "readfile" => &mut args.read,
        "fileperproc" => &mut args.file_per_process,
        "checkwrite" => &mut args.check_write,
        "checkread" => &mut args.check_read,
        "keepfile" => &mut args.keep,
        "keepfilewitherror" => &mut args.keep_with_error,
        "useexistingtestfile" => &mut args.use_existing,
        "multifile" => &mut args.multi_file,
        "useo_direct" => &mut args.direct,
        "singlexferattempt" => &mut args.single_attempt,
        "fsyncperwrite" => &mut args.fsync_per_write,
        "fsync" => &mut args.fsync,
        "stonewallingwearout" => &mut args.more.wear_out,
        "randomoffset" => {
            args.random_offset = u8::from(flag(value)?);
            return Ok(true);
        }
        _ => return Ok(false),
    };
    *switch = flag(value)?;
    Ok(true)
}
