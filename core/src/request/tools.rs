//! Tools: which the provider runs itself, and what their hidden instructions cost.

use crate::{
    attempt::Api,
    json::{Cursor, Kind, Syntax},
};

use super::{
    BadRequest, RequestView,
    read::{whole, word},
};

/// What a tool of the provider does, as far as money is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostedKind {
    /// Searches the web, for a fee.
    WebSearch,
    /// The older preview of it, with another fee.
    WebSearchPreview,
    /// Searches stored files, for a fee.
    FileSearch,
    /// Runs code in a container, for a fee.
    CodeContainer {
        /// The body names a memory size, so the container may be a larger one.
        sized: bool,
    },
    /// Makes images.
    ImageGeneration,
    /// Asks another model.
    Advisor,
    /// Anything else that makes the model run again: MCP, fetching, tool search.
    Other,
}

/// A tool that the provider runs, so that one request can be several model calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostedTool {
    /// What it does.
    pub kind: HostedKind,
    /// The request's own limit.
    pub max_uses: Option<u64>,
}

/// Another model that the answering one may ask. It reads the whole conversation, and bills at its own price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advisor {
    /// Its name, as written.
    pub model: String,
    /// Most tokens of one piece of advice.
    pub max_output: Option<u64>,
    /// How often it may be asked.
    pub max_uses: Option<u64>,
}

/// Instructions that Anthropic adds once any tool is given, and for its own tools (their documentation's largest
/// figures, rounded up).
const TOOL_USE_TOKENS: u64 = 900;
const ANTHROPIC_TOOL_TOKENS: [(&str, u64); 6] = [
    ("bash_", 400),
    ("text_editor_", 900),
    ("computer_", 5_000),
    ("browser_", 7_000),
    ("memory_", 1_500),
    ("code_execution_", 1_500),
];
/// For a tool of the provider's that none of the above names.
const OTHER_TOOL_TOKENS: u64 = 2_000;

pub(super) fn read<'a>(cursor: &mut Cursor<'a>, view: &mut RequestView) -> Result<(), BadRequest> {
    cursor.kind()?;
    let start = cursor.pos();
    read_list(cursor, view)?;
    view.tools_bytes = (cursor.pos() - start) as u64;
    Ok(())
}

/// Tools, wherever they are listed: `tools`, a namespace of them, an item among the messages.
pub(super) fn read_list(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    if cursor.kind()? == Kind::Array {
        cursor.array(|tool| read_tool(tool, view))
    } else {
        cursor.skip()?;
        Ok(())
    }
}

/// What a tool says about money.
#[derive(Default)]
struct Tool {
    kind: String,
    model: Option<String>,
    max_uses: Option<u64>,
    max_output: Option<u64>,
    sized: bool,
}

pub(super) fn read_tool(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    view.tools += 1;
    if cursor.kind()? != Kind::Object {
        cursor.skip()?;
        return Ok(());
    }
    let mut tool = Tool::default();
    cursor.object(|key, value| {
        match key.lossy().as_ref() {
            "type" => tool.kind = word(value)?.unwrap_or_default(),
            "model" => tool.model = word(value)?,
            "max_uses" => tool.max_uses = whole(value, "tools.max_uses")?,
            "max_tokens" => tool.max_output = value.skip()?.parse().ok(),
            "container" | "environment" => tool.sized = value.skip()?.contains("memory"),
            "tools" => read_list(value, view)?,
            _ => drop(value.skip()?),
        }
        Ok::<(), BadRequest>(())
    })?;
    match view.api {
        Api::AnthropicMessages => anthropic_tool(tool, view),
        Api::OpenAiChat | Api::OpenAiResponses => openai_tool(&tool, view),
    }
    Ok(())
}

/// Adds what Anthropic says to a model that has tools at all; once everything is read.
pub(super) fn add_instructions(view: &mut RequestView) {
    if view.api == Api::AnthropicMessages && view.tools > 0 {
        view.hidden_tool_tokens += TOOL_USE_TOKENS;
    }
}

fn anthropic_tool(tool: Tool, view: &mut RequestView) {
    let Tool { kind: name, max_uses, .. } = &tool;
    let max_uses = *max_uses;
    let kind = match name.as_str() {
        "" | "custom" => return,
        _ if name.starts_with("web_search") => Some(HostedKind::WebSearch),
        _ if name.starts_with("advisor") => Some(HostedKind::Advisor),
        _ if ["web_fetch", "code_execution", "tool_search", "mcp"].iter().any(|p| name.starts_with(p)) => {
            Some(HostedKind::Other)
        }
        _ => None,
    };
    let listed = ANTHROPIC_TOOL_TOKENS.iter().find(|(prefix, _)| name.starts_with(prefix));
    view.hidden_tool_tokens += listed.map_or(OTHER_TOOL_TOKENS, |(_, tokens)| *tokens);
    view.hosted.extend(kind.map(|kind| HostedTool { kind, max_uses }));
    if kind == Some(HostedKind::Advisor) {
        let model = tool.model.unwrap_or_default();
        view.advisors.push(Advisor { model, max_output: tool.max_output, max_uses });
    }
}

fn openai_tool(tool: &Tool, view: &mut RequestView) {
    let (name, sized, max_uses) = (tool.kind.as_str(), tool.sized, tool.max_uses);
    let kind = match name {
        // Run by the caller; a namespace only groups such, which are read one by one.
        ""
        | "function"
        | "custom"
        | "computer_use_preview"
        | "computer"
        | "local_shell"
        | "apply_patch"
        | "namespace" => {
            return;
        }
        "file_search" => HostedKind::FileSearch,
        "code_interpreter" | "shell" => HostedKind::CodeContainer { sized },
        "image_generation" => HostedKind::ImageGeneration,
        _ if name.starts_with("web_search_preview") => HostedKind::WebSearchPreview,
        _ if name.starts_with("web_search") => HostedKind::WebSearch,
        _ => HostedKind::Other,
    };
    view.hosted.push(HostedTool { kind, max_uses });
}

/// `mcp_servers` of Anthropic: every server is a tool that the provider runs.
pub(super) fn read_mcp_servers(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), Syntax> {
    if cursor.kind()? == Kind::Array {
        cursor.array(|server| {
            view.hosted.push(HostedTool { kind: HostedKind::Other, max_uses: None });
            server.skip().map(drop)
        })
    } else {
        cursor.skip().map(drop)
    }
}
