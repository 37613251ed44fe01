/** Short names for the schemas of the Platform's OpenAPI document. */
import type { components } from "@/api.gen";

type Schemas = components["schemas"];

export type AgentView = Schemas["AgentView"];
export type DeliveryDecision = Schemas["DeliveryDecision"];
export type DeliveryView = Schemas["DeliveryView"];
export type DiagnosticsView = Schemas["DiagnosticsView"];
export type InitFailure = Schemas["InitFailure"];
export type JobView = Schemas["JobView"];
export type LogMatch = Schemas["LogMatch"];
export type LogPage = Schemas["LogPage"];
export type LogSearchResult = Schemas["LogSearchResult"];
export type PayloadView = Schemas["PayloadView"];
export type PlaceView = Schemas["PlaceView"];
export type RegistrationView = Schemas["RegistrationView"];
export type RunDetailView = Schemas["RunDetailView"];
export type RunFilters = Schemas["RunFilters"];
export type RunGroup = Schemas["RunGroup"];
export type RunGroupList = Schemas["RunGroupList"];
export type RunList = Schemas["RunList"];
export type RunProjection = Schemas["RunProjection"];
export type SourceRef = Schemas["SourceRef"];
export type StepProjection = Schemas["StepProjection"];
