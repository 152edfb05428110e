//! The ports that a container declares, by number and by name.

use super::view::{Refusal, View};

/// The ports that a container declares.
pub(super) struct ContainerPorts<'a>(pub Vec<DeclaredPort<'a>>);

pub(super) struct DeclaredPort<'a> {
    pub view: View<'a>,
    pub name: Option<&'a str>,
    pub number: u16,
    pub is_tcp: bool,
}

impl<'a> ContainerPorts<'a> {
    pub fn read(container: &View<'a>) -> Result<Self, Refusal> {
        let mut ports = Vec::new();
        for view in container.get("ports")?.map_or(Ok(Vec::new()), |list| list.items())? {
            let port = view
                .get("containerPort")?
                .ok_or_else(|| view.refuse_key("containerPort", "is missing"))?;
            ports.push(DeclaredPort {
                view,
                name: view.get_text("name")?,
                number: port_number(&port)?,
                is_tcp: view.get_text("protocol")?.is_none_or(|protocol| protocol == "TCP"),
            });
        }
        Ok(Self(ports))
    }

    /// The number of a port that a probe or a Service gives as number or name.
    pub fn number(&self, port: &View<'a>) -> Result<u16, Refusal> {
        let text = port.text()?;
        match self.0.iter().find(|declared| declared.name == Some(text)) {
            Some(declared) => Ok(declared.number),
            None if text.bytes().all(|b| b.is_ascii_digit()) => port_number(port),
            None => Err(port.refuse(format!("the container has no port named `{text}`"))),
        }
    }
}

fn port_number(port: &View<'_>) -> Result<u16, Refusal> {
    let number = port.text()?.parse::<u16>().ok().filter(|number| *number != 0);
    number.ok_or_else(|| port.refuse("is not a port from 1 to 65535"))
}
