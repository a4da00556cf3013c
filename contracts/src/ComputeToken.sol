// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

/// @title ComputeToken
/// @notice The token that compute is priced and paid in: ERC-20 with permit (EIP-2612) and signed transfers (EIP-3009),
/// 18 decimals, fixed supply, no owner.
contract ComputeToken is ERC20, ERC20Permit, ERC3009 {
    /// @param holder Account that receives the whole supply.
    /// @param supply Atoms (1e-18 token) that will ever exist.
    constructor(address holder, uint256 supply) ERC20("Coulomb Compute", "CMP") ERC20Permit("Coulomb Compute") {
        _mint(holder, supply);
    }
}
